"""ReLU and max pooling at once have the bits of the two layers, alone and in a network."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillery.models import pooling
from distillery.models.classifiers import build_classifier
from distillery.models.pooling import ReluMaxPool

ORDERS = pytest.mark.parametrize(
    "order", [torch.contiguous_format, torch.channels_last], ids=["in order", "channels last"]
)


def layers(x: Tensor) -> Tensor:
    return F.max_pool2d(F.relu(x), 2)


def images(kind: str, *shape: int) -> Tensor:
    """Return random images: as they are, with many equal values and zeros, or with NaN."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    if kind == "ties":
        return x.round() + 0.0  # which makes every zero a positive one
    return x.masked_fill(x > 1, float("nan")) if kind == "nan" else x


def uneven(like: Tensor) -> Tensor:
    """Return a gradient for a tensor; some of it is infinite, some zero and below."""
    gradient = torch.randn(like.shape, generator=torch.Generator().manual_seed(1))
    return gradient.masked_fill(gradient > 2, float("inf")).masked_fill(gradient.abs() < 0.2, -0.0)


def both_gradients(way, x: Tensor) -> tuple[Tensor, ...]:
    """Return values, gradients and the gradients of gradients."""
    x = x.detach().requires_grad_()
    pooled = way(x)
    given = uneven(pooled).requires_grad_()
    (first,) = torch.autograd.grad(pooled, x, given, create_graph=True)
    (second,) = torch.autograd.grad(first, given, uneven(first))
    return pooled, first, second


def same_bits(ours: Tensor, theirs: Tensor) -> bool:
    return torch.equal(*(t.detach().contiguous().view(torch.int32) for t in (ours, theirs)))


def test_values_by_hand():
    x = torch.arange(-5, 8 * 16.0 - 5).view(1, 8, 4, 4)
    assert ReluMaxPool()(x)[0, 0].tolist() == [[0, 2], [8, 10]]


@ORDERS
@pytest.mark.parametrize("kind", ["distinct", "ties", "nan"])
@pytest.mark.parametrize("shape", [(3, 8, 8, 8), (2, 33, 4, 6), (2, 9, 5, 7), (2, 16, 2, 2)])
def test_bits_of_values_and_both_gradients_are_the_layers(shape, kind, order):
    x = images(kind, *shape).contiguous(memory_format=order)
    outcomes = zip(both_gradients(ReluMaxPool(), x), both_gradients(layers, x), strict=True)
    for ours, theirs in outcomes:
        assert same_bits(ours, theirs)
    assert ReluMaxPool()(x).is_contiguous(memory_format=order)


def test_zeros_below_zero_change_the_sign_of_zeros_alone():
    x = torch.where(images("ties", 3, 8, 8, 8) == 0, -0.0, images("ties", 3, 8, 8, 8))
    (ours, *ours_back), (theirs, *theirs_back) = (
        both_gradients(w, x) for w in (ReluMaxPool(), layers)
    )
    assert torch.equal(ours, theirs) and not same_bits(ours, theirs)
    assert all(map(same_bits, ours_back, theirs_back))
    weight = images("distinct", 8, 8, 3, 3)
    assert same_bits(F.conv2d(ours, weight), F.conv2d(theirs, weight))


def test_the_first_of_equal_values_gets_the_gradient():
    x = torch.ones(1, 8, 2, 2, requires_grad=True)
    (back,) = torch.autograd.grad(ReluMaxPool()(x).sum(), x)
    assert back.flatten(2).eq(torch.tensor([1.0, 0, 0, 0])).all()


@pytest.mark.parametrize("in_dim", [0, 1, 2])
def test_several_networks_at_once_have_the_bits_of_each_alone(in_dim):
    x = images("ties", 3, 2, 8, 4, 4)
    given = uneven(x[..., ::2, ::2])
    together = x.movedim(0, in_dim).contiguous().requires_grad_()
    pooled = torch.func.vmap(ReluMaxPool(), in_dim)(together)
    (back,) = torch.autograd.grad(pooled, together, given)
    for student, own in enumerate(x):
        alone = own.clone().requires_grad_()
        (its,) = torch.autograd.grad(layers(alone), alone, given[student])
        assert same_bits(pooled[student], layers(own))
        assert same_bits(back.select(in_dim, student), its)


@pytest.mark.parametrize(
    "x",
    [
        images("distinct", 2, 4, 4, 4),
        images("distinct", 2, 8, 4, 4).to(memory_format=torch.channels_last),
        images("distinct", 2, 8, 4, 4).bfloat16(),
    ],
    ids=["few channels", "channels last", "bfloat16"],
)
def test_other_inputs_are_not_reordered(x, monkeypatch):
    monkeypatch.setattr(pooling, "_MaxPool", None)
    assert torch.equal(ReluMaxPool()(x), layers(x))


@ORDERS
@pytest.mark.parametrize(
    "name", ["convnet-d2-w32-group-max", "convnet-d2-w8-max", "alexnet-w8", "vgg11-w8"]
)
def test_training_has_the_bits_of_the_layers(name, order, monkeypatch):
    ends = []
    for forward in (ReluMaxPool.forward, lambda _, x: layers(x)):
        monkeypatch.setattr(ReluMaxPool, "forward", forward)
        network = build_classifier(name, 1, 8, 10, seed=0)
        ends.append(trained(network.to(memory_format=order)))  # type: ignore[call-overload]
    in_order = (
        order == torch.contiguous_format
        and not build_classifier(name, 1, 8, 10, seed=0).prefers_channels_last
    )
    for ours, theirs in zip(*ends, strict=True):  # channels last, sums have another order
        assert same_bits(ours, theirs) if in_order else torch.allclose(ours, theirs, atol=1e-4)


def trained(network: nn.Module) -> list[Tensor]:
    """Return weights after steps on images with a flat background, hence ties, and what they give.

    These are the logits, and the gradient by which gradient matching moves an image.
    """
    x = images("distinct", 10, 1, 8, 8)
    x[..., :3] = -1.0
    weights, labels = list(network.parameters()), torch.arange(10)
    optimizer = torch.optim.AdamW(weights, 5e-3)
    for _ in range(4):
        optimizer.zero_grad()
        F.cross_entropy(network(x), labels).backward()
        optimizer.step()
    x.requires_grad_()
    logits = network(x)
    first = torch.autograd.grad(F.cross_entropy(logits, labels), weights, create_graph=True)
    (second,) = torch.autograd.grad(torch.stack([g.square().sum() for g in first]).sum(), x)
    assert second.any()
    return [*weights, logits, second]
