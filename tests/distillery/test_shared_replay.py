"""Recorded work gives what plain calls give, and on a CPU it is a plain call."""

import pytest
import torch
from torch import Tensor, nn

from distillery.replay import WARMUP, Replayed

CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def training(device: torch.device, calls: list[int]):
    """Return a training step of a small network, and its weights."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 1)).to(device)
    optimizer = torch.optim.AdamW(
        network.parameters(), 1e-2, fused=True, capturable=device.type == "cuda"
    )

    def step(x: Tensor, y: Tensor) -> tuple[Tensor]:
        calls.append(len(x))
        loss = (network(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return (loss.detach(),)

    return step, list(network.parameters())


def batches(device: torch.device) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    sizes = [16] * 8 + [5] + [16] * 2  # one batch is smaller
    drawn = [torch.randn(size, 5, generator=generator).to(device) for size in sizes]
    return [(one[:, :4], one[:, 4:]) for one in drawn]


def test_on_a_cpu_every_call_is_a_plain_one() -> None:
    calls: list[int] = []
    step, _ = training(CPU, calls)
    replayed = Replayed(step, CPU)
    for batch in batches(CPU):
        replayed(*batch)
    assert calls == [16] * 8 + [5] + [16] * 2


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("is_on", [True, False])
def test_a_recorded_step_trains_as_a_plain_one_does(is_on: bool) -> None:
    device, calls = torch.device("cuda"), []
    plain, expected = training(device, [])
    losses = [plain(*batch)[0] for batch in batches(device)]
    step, weights = training(device, calls)
    replayed = Replayed(step, device, is_on=is_on)
    assert torch.equal(
        torch.stack([replayed(*batch)[0] for batch in batches(device)]), torch.stack(losses)
    )
    assert all(map(torch.equal, weights, expected))
    # warm-up, recording, and the batch of another size; the rest are replays
    assert len(calls) == (WARMUP + 1 + 1 if is_on else 11)


@pytest.mark.gpu
@needs_gpu
def test_what_a_replay_returns_stays() -> None:
    device = torch.device("cuda")
    replayed = Replayed(lambda x: (2 * x,), device, warmup=1)
    results = [replayed(torch.full((3,), float(value), device=device))[0] for value in range(5)]
    assert torch.stack(results)[:, 0].tolist() == [0, 2, 4, 6, 8]
