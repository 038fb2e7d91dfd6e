"""Minimax memories: first in, first out within each class, as if pushed one by one."""

from collections import deque

import pytest
import torch
import torch.nn.functional as F

from finetune.memory import ClassMemories, Ring


def contents(ring: Ring, label: int) -> set[float]:
    """The valid entries of one class, told apart by the angle of their first two features."""
    entries = ring.entries.view(ring.num_classes, ring.size, -1)[label][ring.valid()[label]]
    return {round(torch.atan2(entry[1], entry[0]).item(), 4) for entry in entries}


def vectors(angles: list[float]) -> torch.Tensor:
    angle = torch.tensor(angles)
    return 3 * torch.stack([angle.cos(), angle.sin()], dim=1)


def test_it_starts_empty() -> None:
    ring = Ring(3, 4, 2, torch.device("cpu"))
    assert not ring.valid().any()


def test_entries_are_unit_vectors_of_their_class() -> None:
    ring = Ring(2, 4, 2, torch.device("cpu"))
    ring.push(vectors([0.1, 0.2, 0.3]), torch.tensor([1, 0, 1]))
    assert contents(ring, 0) == {0.2}
    assert contents(ring, 1) == {0.1, 0.3}
    assert ring.entries.norm(dim=1).sum().item() == pytest.approx(3.0)


def test_the_oldest_leave_first() -> None:
    ring = Ring(1, 3, 2, torch.device("cpu"))
    ring.push(vectors([0.1, 0.2]), torch.zeros(2).long())
    ring.push(vectors([0.3, 0.4]), torch.zeros(2).long())
    assert contents(ring, 0) == {0.2, 0.3, 0.4}


def test_of_a_batch_larger_than_the_memory_the_last_stay() -> None:
    ring = Ring(2, 2, 2, torch.device("cpu"))
    ring.push(vectors([0.1, 0.2, 0.3, 0.4, 0.5]), torch.tensor([0, 0, 0, 1, 0]))
    assert contents(ring, 0) == {0.3, 0.5}
    assert contents(ring, 1) == {0.4}


def test_samples_that_are_not_kept_leave_no_trace() -> None:
    ring = Ring(1, 2, 2, torch.device("cpu"))
    ring.push(vectors([0.1, 0.2]), torch.zeros(2).long())
    ring.push(vectors([0.3, 0.4]), torch.zeros(2).long(), keep=torch.tensor([False, True]))
    assert contents(ring, 0) == {0.2, 0.4}
    ring.push(vectors([0.5, 0.6]), torch.zeros(2).long(), keep=torch.zeros(2).bool())
    assert contents(ring, 0) == {0.2, 0.4}


def test_it_equals_queues_that_are_filled_one_by_one() -> None:
    generator = torch.Generator().manual_seed(0)
    ring = Ring(3, 4, 2, torch.device("cpu"))
    queues = [deque(maxlen=4) for _ in range(3)]
    for _ in range(20):
        angles = (torch.rand(7, generator=generator) * 3).tolist()
        labels = torch.randint(3, (7,), generator=generator)
        keep = torch.rand(7, generator=generator) < 0.8
        ring.push(vectors(angles), labels, keep)
        for angle, label, kept in zip(angles, labels.tolist(), keep.tolist(), strict=True):
            if kept:
                queues[label].append(angle)
        for label, queue in enumerate(queues):
            assert sorted(contents(ring, label)) == pytest.approx(sorted(queue), abs=2e-4)


def test_gradients_do_not_enter() -> None:
    memories = ClassMemories(2, 3, 2)
    predicted = vectors([0.1, 0.2]).requires_grad_()
    labels = torch.tensor([0, 1])
    memories.push(predicted * 2, predicted * 2, labels, torch.tensor([True, False]))
    assert not memories.real.entries.requires_grad
    assert memories.real.pushed.tolist() == [1, 1]
    assert memories.predicted.pushed.tolist() == [1, 0]


def test_a_restored_memory_goes_on_in_the_same_way() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = ClassMemories(2, 3, 5), ClassMemories(2, 3, 5)

    def push(memories: ClassMemories, seed: int) -> None:
        generator.manual_seed(seed)
        vectors = torch.randn(4, 5, generator=generator)
        labels = torch.randint(2, (4,), generator=generator)
        memories.push(vectors, -vectors, labels, torch.ones(4).bool())

    push(first, 0)
    second.load(first.state())
    push(first, 1)
    push(second, 1)
    for name, array in first.state().items():
        assert (array == second.state()[name]).all(), name
    assert torch.equal(F.normalize(first.real.entries), -F.normalize(first.predicted.entries))


def test_sizes_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="got 0, 64 and 8"):
        ClassMemories(0, 64, 8)
