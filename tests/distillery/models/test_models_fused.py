"""The fused block equals its three layers: values, gradients, gradients of gradients, fallbacks."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillery.models import fused
from distillery.models.classifiers import build_classifier
from distillery.models.fused import norm_relu_pool


def plain(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    return F.avg_pool2d(F.relu(norm(x)), 2)


def uneven_norm(channels: int, groups: int | None = None) -> nn.GroupNorm:
    norm = nn.GroupNorm(groups or channels, channels)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(channels, generator=generator))
        norm.bias.copy_(torch.randn(channels, generator=generator))
    return norm


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).requires_grad_()


def test_values_by_hand():
    # mean 1, variance 1: normed -1, -1, 1, 1, and each pool keeps half of what is above zero
    x = torch.tensor([[[[0.0, 0.0], [2.0, 2.0]]]])
    assert norm_relu_pool(x, nn.GroupNorm(1, 1, eps=0.0)).item() == pytest.approx(0.5)


@pytest.mark.parametrize("shape", [(3, 4, 8, 8), (1, 1, 2, 2), (2, 5, 4, 6)])
def test_values_and_gradients_equal_those_of_the_layers(shape):
    norm, x = uneven_norm(shape[1]), images(*shape)
    outcomes = []
    for way in (plain, norm_relu_pool):
        out = way(x, norm)
        loss = (out * torch.arange(out.numel()).view_as(out)).sum() / out.numel()
        outcomes.append((out, *torch.autograd.grad(loss, (x, norm.weight, norm.bias))))
    for ours, theirs in zip(*outcomes, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_gradients_of_gradients_equal_those_of_the_layers():
    norm, x = uneven_norm(3), images(2, 3, 4, 4)
    outcomes = []
    for way in (plain, norm_relu_pool):
        (first,) = torch.autograd.grad(way(x, norm).square().sum(), norm.weight, create_graph=True)
        outcomes.append(torch.autograd.grad(first.square().sum(), x)[0])
    torch.testing.assert_close(outcomes[0], outcomes[1], rtol=1e-4, atol=1e-5)
    assert outcomes[0].abs().sum() > 0


@pytest.mark.parametrize(
    ("x", "groups"),
    [
        (images(2, 4, 5, 5), None),
        (images(2, 4, 4, 4), 2),
        (images(2, 4, 4, 4).to(memory_format=torch.channels_last), None),
        (images(2, 4, 4, 4).bfloat16(), None),
    ],
    ids=["odd sides", "wider groups", "channels last", "bfloat16"],
)
def test_other_inputs_go_through_the_layers(x, groups, monkeypatch):
    monkeypatch.setattr(fused, "_NormReluPool", None)
    norm = uneven_norm(4, groups).to(x.dtype)
    torch.testing.assert_close(norm_relu_pool(x, norm), plain(x, norm))


def test_convnets_of_the_published_pair_use_it(monkeypatch):
    calls = []
    monkeypatch.setattr(
        "distillery.models.convnets.norm_relu_pool",
        lambda x, norm: calls.append(1) or plain(x, norm),
    )
    published = build_classifier("convnet-d3-w4", 3, 8, 2, seed=0)
    pooled = build_classifier("convnet-d3-w4-max", 3, 8, 2, seed=0)
    with torch.no_grad():
        published(images(1, 3, 8, 8))
        assert len(calls) == 3
        pooled(images(1, 3, 8, 8))
    assert len(calls) == 3
    assert pooled.prefers_channels_last
    assert not published.prefers_channels_last
