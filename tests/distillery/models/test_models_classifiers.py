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
    """ConvNet-3 of width 128 for CIFAR-10 has 320,010 weights; ResNet-18 11.17 M (He et al.)."""
    convnet = build_classifier("convnet-d3-w128", 3, 32, 10, seed=0)
    assert sum(p.numel() for p in convnet.parameters()) == 320_010
    resnet = build_classifier("resnet18", 3, 32, 10, seed=0, norm="batch")
    assert sum(p.numel() for p in resnet.parameters()) == 11_173_962


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
    for name in ("convnet-d2-w4", "resnet18-w4"):
        network = build_classifier(name, 3, 16, 3, seed=0)
        network(x).square().sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in network.parameters())
    assert x.grad is not None and x.grad.any()


def test_what_cannot_be_built_says_why() -> None:
    with pytest.raises(ValueError, match="convnet-d3-w128"):
        build_classifier("vgg11", 3, 32, 10, seed=0)
    with pytest.raises(ValueError, match="depth 1 to 3"):
        ConvNet(4, 32, 1, 8, 10)
    with pytest.raises(ValueError, match="8 pixels"):
        build_classifier("resnet18", 1, 4, 10, seed=0)


def test_norm_and_pooling_can_be_named() -> None:
    network = build_classifier("convnet-d2-w32-group-max", 1, 8, 10, 0)
    kinds = [type(module).__name__ for module in network.modules()]
    assert kinds.count("MaxPool2d") == 2 and "AvgPool2d" not in kinds
    norms = [module for module in network.modules() if isinstance(module, torch.nn.GroupNorm)]
    assert [norm.num_groups for norm in norms] == [4, 4]
