"""Classifiers are made by name, fit every image size that we meet, and show their features."""

import pytest
import torch

from distillery.models.classifiers import ConvNet, build_classifier
from distillery.models.initialise import seeded_weights


@pytest.mark.parametrize(
    ("name", "channels", "image_size", "num_features"),
    [
        ("convnet-d2-w32", 1, 8, 32 * 4),
        ("convnet-d3-w16", 1, 28, 16 * 9),
        ("convnet-d3-w16", 3, 32, 16 * 16),
        ("convnet-d2-w4", 1, 7, 4),
        ("resnet18-w4", 3, 32, 32),
        ("resnet18-w4", 1, 8, 32),
        ("resnet18-w4", 3, 96, 32),
        ("resnet10-w4", 1, 15, 32),
        ("resnetap10-w4", 3, 30, 32),
        ("resnetap10-w4", 3, 96, 32),
        ("alexnet-w4", 1, 28, 6 * 16),
        ("alexnet-w4", 1, 8, 6),
        ("vgg11-w4", 1, 28, 32),
        ("vgg11-w4", 1, 8, 32),
        ("vgg11-w4", 3, 64, 32 * 4),
        ("vit-w32", 1, 8, 32),
        ("vit-w32", 3, 30, 32),
    ],
)
def test_shapes(name: str, channels: int, image_size: int, num_features: int) -> None:
    network = build_classifier(name, channels, image_size, 5, seed=0)
    x = torch.randn(2, channels, image_size, image_size)
    features = network.features(x)
    assert features.shape == (2, num_features)
    torch.testing.assert_close(network(x), network.head(features))
    assert network(x).shape == (2, 5)
    assert network.feature_map(x).ndim == 4


def test_published_sizes() -> None:
    """Weights for CIFAR-10 as published; AlexNet and VGG-11 counted from their layers by hand."""

    def weights(name: str) -> int:
        network = build_classifier(name, 3, 32, 10, seed=0)
        return sum(p.numel() for p in network.parameters())

    alexnet = [(3, 128, 25), (128, 192, 25), (192, 256, 9), (256, 192, 9), (192, 192, 9)]
    vgg = [
        (3, 64),
        (64, 128),
        (128, 256),
        (256, 256),
        (256, 512),
        (512, 512),
        (512, 512),
        (512,) * 2,
    ]
    assert weights("convnet-d3-w128") == 320_010
    assert weights("resnet18") == 11_173_962
    assert weights("alexnet") == sum(a * b * k + b for a, b, k in alexnet) + 192 * 16 * 10 + 10
    assert weights("vgg11") == sum(9 * a * b + 3 * b for a, b in vgg) + 512 * 10 + 10
    assert weights("resnet10") == weights("resnetap10") == 4_903_242


def test_weights_depend_on_the_seed_alone() -> None:
    state = torch.get_rng_state()
    first = build_classifier("convnet-d1-w4", 1, 8, 2, seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    again = build_classifier("convnet-d1-w4", 1, 8, 2, seed=3).state_dict()
    other = build_classifier("convnet-d1-w4", 1, 8, 2, seed=4).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])
    with seeded_weights(0, "a"):
        one = torch.rand(1)
    with seeded_weights(0, "b"):
        assert torch.rand(1) != one


def test_instance_norm_sees_one_image_and_batch_norm_the_batch() -> None:
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    brighter = torch.cat([x[:1], x[1:] * 9 + 5])
    for norm, alone in (("instance", True), ("batch", False)):
        network = build_classifier("convnet-d2-w8", 1, 8, 3, seed=0, norm=norm).train()  # type: ignore[arg-type]
        same = torch.allclose(network(x)[0], network(brighter)[0], atol=1e-5)
        assert same is alone


def test_instance_norm_centres_each_channel_of_each_image() -> None:
    network = build_classifier("convnet-d1-w8", 1, 8, 3, seed=0)
    assert isinstance(network, ConvNet)
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    normed = network.blocks[:2](x)
    torch.testing.assert_close(normed.mean(dim=(2, 3)), torch.zeros(2, 8), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        normed.std(dim=(2, 3), correction=0), torch.ones(2, 8), rtol=1e-3, atol=0
    )


def test_gradient_reaches_every_weight_and_the_image() -> None:
    x = torch.randn(2, 3, 16, 16, requires_grad=True)
    for name in (
        "convnet-d2-w4", "resnet18-w4", "resnetap10-w4", "alexnet-w4", "vgg11-w4", "vit-w32",
    ):  # fmt: skip
        network = build_classifier(name, 3, 16, 3, seed=0)
        network(x).square().sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in network.parameters())
    assert x.grad is not None and x.grad.any()


def test_what_cannot_be_built_says_why() -> None:
    with pytest.raises(ValueError, match="convnet-d3-w128"):
        build_classifier("lenet", 3, 32, 10, seed=0)
    with pytest.raises(ValueError, match="depth 1 to 3"):
        ConvNet(4, 32, 1, 8, 10)
    with pytest.raises(ValueError, match="8 pixels"):
        build_classifier("resnet18", 1, 4, 10, seed=0)


def test_norm_and_pooling_can_be_named() -> None:
    network = build_classifier("convnet-d2-w32-group-max", 1, 8, 10, 0)
    kinds = [type(module).__name__ for module in network.modules()]
    assert kinds.count("ReluMaxPool") == 2 and "AvgPool2d" not in kinds
    norms = [module for module in network.modules() if isinstance(module, torch.nn.GroupNorm)]
    assert [norm.num_groups for norm in norms] == [4, 4]


def test_an_average_pooled_resnet_has_no_strides_and_a_resnet_has() -> None:
    for name, strided in (("resnetap10-w4", 0), ("resnet10-w4", 6)):
        network = build_classifier(name, 3, 32, 10, 0)
        layers = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
        assert sum(layer.stride != (1, 1) for layer in layers) == strided
        assert network.feature_map(torch.zeros(1, 3, 32, 32)).shape[-1] == 4


def test_a_transformer_sees_where_patches_lie_and_has_second_gradients() -> None:
    network = build_classifier("vit-w32", 1, 16, 3, 0)
    x = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert not torch.allclose(network(x), network(x.flip(3)), atol=1e-3)
    (first,) = torch.autograd.grad(network(x).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    assert second.any()


def test_widths_scale_every_layer() -> None:
    for name in ("alexnet", "vgg11", "resnet10", "vit"):
        features = [
            build_classifier(f"{name}-w{width}", 3, 32, 10, 0).head.in_features
            for width in (32, 64)
        ]
        assert features[1] == 2 * features[0]
