"""The minimax criteria: values by hand, where gradients go and which way, and their limits."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from finetune.losses import (
    Peers,
    denoising_loss,
    diversity_loss,
    min_snr_weights,
    representativeness_loss,
)
from finetune.memory import Ring

BOTH = pytest.mark.parametrize("reduction", ["per_sample", "scalar"])
LOSSES = pytest.mark.parametrize("loss", [representativeness_loss, diversity_loss])


def ring(entries: dict[int, list[list[float]]], num_classes: int = 2, size: int = 4) -> Ring:
    """A memory with these entries by class."""
    dim = len(next(iter(entries.values()))[0]) if entries else 2
    memory = Ring(num_classes, size, dim, torch.device("cpu"))
    for label, vectors in entries.items():
        memory.push(torch.tensor(vectors), torch.full((len(vectors),), label))
    return memory


def at(*degrees: float) -> torch.Tensor:
    """Vectors at these angles, of lengths that must not matter."""
    angle = torch.tensor(degrees).deg2rad()
    length = torch.arange(1.0, len(degrees) + 1)
    return (length * torch.stack([angle.cos(), angle.sin()])).T.contiguous()


def cos(degrees: float) -> float:
    return math.cos(math.radians(degrees))


MEMORY = {0: [[1.0, 0.0], [0.0, 2.0]], 1: [[-1.0, 0.0]]}  # class 0 at 0 and 90 degrees, 1 at 180
PREDICTED, LABELS = at(30.0, 80.0, 150.0), torch.tensor([0, 0, 1])
ALL = torch.ones(3, dtype=torch.bool)


def test_values_per_sample_by_hand() -> None:
    r = representativeness_loss(PREDICTED, LABELS, ring(MEMORY), active=ALL)
    # least alike: 90 degrees for 30 (60 apart), 0 for 80 (80 apart), 180 for 150 (30 apart)
    assert r.item() == pytest.approx((3 - cos(60) - cos(80) - cos(30)) / 3)
    d = diversity_loss(PREDICTED, LABELS, ring(MEMORY), active=ALL)
    # most alike: 0 for 30 (30 apart), 90 for 80 (10 apart), 180 for 150 (30 apart)
    assert d.item() == pytest.approx((cos(30) + cos(10) + cos(30)) / 3)


def test_values_of_the_released_code_by_hand() -> None:
    scalar = partial(representativeness_loss, active=ALL, reduction="scalar")
    assert scalar(PREDICTED, LABELS, ring(MEMORY)).item() == pytest.approx(
        ((1 - cos(80)) + (1 - cos(30))) / 2  # class 0: worst of both samples; class 1: its one
    )
    scalar = partial(diversity_loss, active=ALL, reduction="scalar")
    assert scalar(PREDICTED, LABELS, ring(MEMORY)).item() == pytest.approx((cos(10) + cos(30)) / 2)


@BOTH
@LOSSES
def test_it_equals_the_slow_written_out_form(loss, reduction) -> None:
    generator = torch.Generator().manual_seed(0)
    predicted = torch.randn(12, 3, 2, 2, generator=generator)
    labels = torch.randint(3, (12,), generator=generator)
    real = {k: torch.randn(k + 2, 12, generator=generator) for k in range(3)}
    memory = ring({k: v.tolist() for k, v in real.items()}, num_classes=3, size=5)
    per_sample, per_class = [], []
    for k in labels.unique().tolist():
        of_class = predicted[labels == k].flatten(1)
        matrix = F.cosine_similarity(of_class[:, None], real[k][None], dim=2)
        if loss is representativeness_loss:
            per_sample += (1 - matrix.min(1).values).tolist()
            per_class.append(1 - matrix.min().item())
        else:
            per_sample += matrix.max(1).values.tolist()
            per_class.append(matrix.max().item())
    terms = per_sample if reduction == "per_sample" else per_class
    actual = loss(predicted, labels, memory, active=torch.ones(12).bool(), reduction=reduction)
    assert actual.item() == pytest.approx(sum(terms) / len(terms), abs=1e-6)


@BOTH
def test_a_step_on_representativeness_approaches_the_least_similar_real_entry(reduction) -> None:
    predicted = at(30.0).requires_grad_()
    label, memory = torch.tensor([0]), ring(MEMORY)
    active = torch.tensor([True])
    representativeness_loss(predicted, label, memory, active=active, reduction=reduction).backward()
    stepped = predicted.detach() - 0.1 * predicted.grad
    far, near = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    assert F.cosine_similarity(stepped, far) > F.cosine_similarity(predicted, far)
    assert F.cosine_similarity(stepped, near) < F.cosine_similarity(predicted, near)


@BOTH
def test_a_step_on_diversity_leaves_the_most_similar_prediction(reduction) -> None:
    predicted = at(30.0).requires_grad_()
    label, memory = torch.tensor([0]), ring(MEMORY)
    active = torch.tensor([True])
    diversity_loss(predicted, label, memory, active=active, reduction=reduction).backward()
    stepped = predicted.detach() - 0.1 * predicted.grad
    near = torch.tensor([[1.0, 0.0]])
    assert F.cosine_similarity(stepped, near) < F.cosine_similarity(predicted, near)


def gradient_rows(loss, reduction, active=ALL, memory=None) -> list[bool]:
    predicted = PREDICTED.clone().requires_grad_()
    memory = ring(MEMORY) if memory is None else memory
    loss(predicted, LABELS, memory, active=active, reduction=reduction).backward()
    return (predicted.grad.abs().sum(1) > 1e-6).tolist()


@LOSSES
def test_which_samples_the_gradient_reaches(loss) -> None:
    assert gradient_rows(loss, "per_sample") == [True, True, True]
    # of class 0 only the sample in the extreme pair, the second one in both criteria
    assert gradient_rows(loss, "scalar") == [False, True, True]


@LOSSES
@BOTH
def test_masked_samples_add_nothing(loss, reduction) -> None:
    active = torch.tensor([True, False, True])
    assert gradient_rows(loss, reduction, active) == [True, False, True]
    masked = loss(PREDICTED, LABELS, ring(MEMORY), active=active, reduction=reduction)
    elsewhere = torch.where(active[:, None], PREDICTED, at(10.0, 20.0, 30.0))
    again = loss(elsewhere, LABELS, ring(MEMORY), active=active, reduction=reduction)
    assert masked.item() == again.item()


@LOSSES
@BOTH
def test_all_masked_gives_zero_and_no_gradient(loss, reduction) -> None:
    none = torch.zeros(3, dtype=torch.bool)
    assert loss(PREDICTED, LABELS, ring(MEMORY), active=none, reduction=reduction).item() == 0
    assert gradient_rows(loss, reduction, none) == [False, False, False]


@LOSSES
@BOTH
def test_an_empty_memory_gives_zero_and_no_gradient(loss, reduction) -> None:
    empty = Ring(2, 4, 2, torch.device("cpu"))
    assert loss(PREDICTED, LABELS, empty, active=ALL, reduction=reduction).item() == 0
    assert gradient_rows(loss, reduction, memory=empty) == [False, False, False]


@LOSSES
def test_a_class_without_memory_adds_nothing_but_counts(loss) -> None:
    only_one = ring({1: [[-1.0, 0.0]]})
    value = 1 - cos(30) if loss is representativeness_loss else cos(30)
    per_sample = loss(PREDICTED, LABELS, only_one, active=ALL)
    scalar = loss(PREDICTED, LABELS, only_one, active=ALL, reduction="scalar")
    assert per_sample.item() == pytest.approx(value / 3)
    assert scalar.item() == pytest.approx(value / 2)  # two classes are present


@BOTH
def test_one_class_and_one_entry(reduction) -> None:
    memory = ring({0: [[1.0, 0.0]]}, num_classes=1, size=1)
    arguments = (at(60.0), torch.tensor([0]), memory)
    active = torch.tensor([True])
    r = representativeness_loss(*arguments, active=active, reduction=reduction)
    d = diversity_loss(*arguments, active=active, reduction=reduction)
    assert r.item() == pytest.approx(0.5)
    assert d.item() == pytest.approx(0.5)


def test_equal_extremes_share_the_weight() -> None:
    predicted = at(30.0, 30.0).requires_grad_()
    arguments = (predicted, torch.tensor([0, 0]), ring(MEMORY))
    loss = diversity_loss(*arguments, active=torch.ones(2).bool(), reduction="scalar")
    assert loss.item() == pytest.approx(cos(30))


@LOSSES
def test_a_prediction_of_zero_is_harmless(loss) -> None:
    predicted = torch.zeros(3, 2, requires_grad=True)
    value = loss(predicted, LABELS, ring(MEMORY), active=ALL)
    value.backward()
    assert value.isfinite()
    assert predicted.grad.isfinite().all()


@LOSSES
@BOTH
def test_two_processes_average_to_the_whole_batch(loss, reduction) -> None:
    generator = torch.Generator().manual_seed(3)
    predicted = torch.randn(8, 2, generator=generator)
    labels = torch.randint(2, (8,), generator=generator)
    active = torch.rand(8, generator=generator) < 0.8
    whole = loss(predicted, labels, ring(MEMORY), active=active, reduction=reduction)

    def of_rank(rank: int) -> torch.Tensor:
        # a stand-in for the other process: what is gathered has the whole batch's values
        calls = iter(gathered)
        peers = Peers(gather=lambda _: next(calls), num_processes=2, rank=rank)
        part = slice(4 * rank, 4 * rank + 4)
        return loss(
            predicted[part], labels[part], ring(MEMORY),
            active=active[part], reduction=reduction, peers=peers,
        )  # fmt: skip

    gathered: list[torch.Tensor] = []
    recorder = Peers(gather=lambda t: (gathered.append(t), t)[1], num_processes=1, rank=0)
    loss(predicted, labels, ring(MEMORY), active=active, reduction=reduction, peers=recorder)
    mean = (of_rank(0) + of_rank(1)) / 2
    assert mean.item() == pytest.approx(whole.item(), abs=1e-6)


def test_denoising_is_the_mean_squared_error() -> None:
    eps, noise = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])
    assert denoising_loss(eps, noise).item() == 2.5
    assert denoising_loss(eps.bfloat16(), noise).dtype == torch.float32


def test_min_snr_weights_by_hand() -> None:
    kept = torch.tensor([0.9, 0.5, 0.2], dtype=torch.float64)  # ratios of 9, 1 and 1/4
    mean = (1 / 9 + 1 + 1) / 3
    weights = min_snr_weights(kept, 1.0)
    assert weights.tolist() == pytest.approx([1 / 9 / mean, 1 / mean, 1 / mean], rel=1e-6)
    assert min_snr_weights(kept, 4.5).tolist() == pytest.approx([0.6, 1.2, 1.2], rel=1e-6)


def test_min_snr_weights_at_their_limits() -> None:
    kept = torch.tensor([0.9, 0.5, 0.0], dtype=torch.float64)  # nothing left at the last
    assert torch.equal(min_snr_weights(kept, 1e9), torch.ones(3))
    assert torch.isfinite(min_snr_weights(kept, 1e-9)).all()
