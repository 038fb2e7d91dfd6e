"""The faster matrix products: the same numbers as torch's own layers, forwards and backwards."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from finetune import linear
from finetune.linear import fast_linears, product

HAS_ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise")


@pytest.fixture(autouse=True)
def even_small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers of this file are too small to go through oneDNN otherwise, or the CPU is Intel's."""
    monkeypatch.setattr(linear, "SMALLEST_PRODUCT", 0)
    monkeypatch.setattr(linear, "_onednn_pays", lambda: HAS_ONEDNN)


def tensors(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("leading", [(5,), (3, 7), (1,)])
def test_outputs_and_gradients_equal_torchs(leading: tuple[int, ...]) -> None:
    x, other = tensors((*leading, 12), (*leading, 12))
    layer = nn.Linear(12, 8)
    with torch.no_grad():
        other.copy_(x)
    parameters = list(layer.parameters())
    expected = layer(x).sin().sum()
    expected_grads = torch.autograd.grad(expected, [x, *parameters])
    with fast_linears(layer):
        actual = layer(other).sin().sum()
    actual_grads = torch.autograd.grad(actual, [other, *parameters])
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(actual_grads, expected_grads)


def test_frozen_weights_get_no_gradient_but_biases_do() -> None:
    layer = nn.Linear(6, 4)
    layer.weight.requires_grad_(False)
    (x,) = tensors((3, 5, 6))
    with fast_linears(layer):
        layer(x).square().sum().backward()
    assert layer.weight.grad is None
    assert layer.bias.grad is not None
    assert x.grad.abs().sum() > 0


def test_layers_without_bias_and_without_gradients() -> None:
    layer = nn.Linear(6, 4, bias=False)
    (x,) = tensors((5, 6))
    with fast_linears(layer), torch.no_grad():
        fast = layer(x)
    torch.testing.assert_close(fast, layer(x).detach())


def test_transposed_weights_are_understood() -> None:
    grad, weight = tensors((5, 4), (4, 6))
    with torch.no_grad():
        torch.testing.assert_close(product(grad, weight.t()), grad @ weight)


def test_autocast_and_other_dtypes_go_the_usual_way() -> None:
    layer = nn.Linear(6, 4)
    (x,) = tensors((5, 6))
    with torch.autocast("cpu", torch.bfloat16):
        usual = layer(x)
        with fast_linears(layer):
            assert torch.equal(layer(x), usual)
    double = [tensor.detach().double() for tensor in (x, layer.weight)]
    assert torch.equal(product(*double), F.linear(*double))


def test_the_model_is_put_back_even_after_an_error() -> None:
    layer = nn.Linear(6, 4)
    with pytest.raises(RuntimeError, match="stop"), fast_linears(layer):
        raise RuntimeError("stop")
    assert "forward" not in layer.__dict__


def test_blocks_may_be_nested() -> None:
    """The fidelity check of a training run samples inside the trainer's own block."""
    layer = nn.Linear(4, 3)
    with fast_linears(layer):
        outer = layer.forward
        with fast_linears(layer):
            pass
        assert layer.forward is outer
    assert "forward" not in layer.__dict__


def test_small_products_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(linear, "SMALLEST_PRODUCT", 2 * 12 * 8)
    monkeypatch.setattr(linear, "_onednn_pays", lambda: True)
    stand_in = lambda x, w, b, *_: calls.append(len(x)) or F.linear(x, w, b)  # noqa: E731
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", stand_in)
    weight = torch.ones(8, 12)
    product(torch.ones(1, 12), weight)
    product(torch.ones(2, 12), weight)
    assert calls == [2]


def test_an_intel_cpu_keeps_torchs_own_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are as fast there, without the way through Python."""
    monkeypatch.undo()  # of the fixture
    monkeypatch.setattr(linear, "is_intel_cpu", lambda: True)
    linear._onednn_pays.cache_clear()
    layer = nn.Linear(4, 3)
    with fast_linears(layer):
        assert "forward" not in layer.__dict__
    linear._onednn_pays.cache_clear()
