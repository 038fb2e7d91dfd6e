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


@pytest.mark.parametrize("shared", [None, "images", "weights"])
def test_several_networks_at_once_equal_one_after_another(shared, monkeypatch):
    norms = [uneven_norm(3), uneven_norm(3)]
    x = images(2, 2, 3, 4, 4)
    stacked = [torch.stack([p * (i + 1) for i, p in enumerate(pair)]).detach().requires_grad_()
               for pair in zip(*(n.parameters() for n in norms), strict=True)]  # fmt: skip
    calls = []
    whole = fused._NormReluPool.vmap
    monkeypatch.setattr(
        fused._NormReluPool, "vmap", staticmethod(lambda *a: calls.append(1) or whole(*a))
    )
    dims = {None: (0, 0, 0), "images": (None, 0, 0), "weights": (0, None, None)}[shared]
    given = [v if d == 0 else v[0] for v, d in zip((x, *stacked), dims, strict=True)]

    def one(own, weight, bias):
        return torch.func.functional_call(
            Pooled(norms[0]), {"norm.weight": weight, "norm.bias": bias}, (own,)
        )

    together = torch.func.vmap(one, dims)(*given)
    ones = [[v if d is None else v[i] for v, d in zip(given, dims, strict=True)] for i in range(2)]
    apart = torch.stack([F.avg_pool2d(F.relu(F.group_norm(own, 3, *wb)), 2) for own, *wb in ones])
    assert calls == [1]
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)
    scale = torch.arange(apart.numel()).view_as(apart) / apart.numel()
    sides = [torch.autograd.grad((side * scale).sum(), (x, *stacked)) for side in (together, apart)]
    for ours, theirs in zip(*sides, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


class Pooled(nn.Module):
    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return norm_relu_pool(x, self.norm)


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
