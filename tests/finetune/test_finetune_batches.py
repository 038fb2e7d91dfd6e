"""Which images a step sees: every image once an epoch, from the step's number alone."""

import pytest
import torch

from distillery.seeds import torch_rng
from finetune.batches import ShuffledEpochs, drop_labels, spread_timesteps


def test_an_epoch_holds_every_item_once() -> None:
    epochs = ShuffledEpochs(10, 4, 0, "test")
    seen = torch.cat([epochs.batch(step) for step in range(5)])
    assert seen[:10].sort().values.tolist() == list(range(10))
    assert seen[10:].sort().values.tolist() == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist()


def test_a_step_can_be_asked_for_alone() -> None:
    in_order = ShuffledEpochs(7, 3, 5, "test")
    batches = [in_order.batch(step).tolist() for step in range(12)]
    assert ShuffledEpochs(7, 3, 5, "test").batch(11).tolist() == batches[11]
    assert ShuffledEpochs(7, 3, 6, "test").batch(11).tolist() != batches[11]


def test_a_batch_may_be_larger_than_the_dataset() -> None:
    batch = ShuffledEpochs(3, 8, 0, "test").batch(0)
    assert torch.bincount(batch).sort().values.tolist() == [2, 3, 3]


def test_an_empty_dataset_is_refused() -> None:
    with pytest.raises(ValueError, match="num_items and batch_size must be 1 or more, got 0"):
        ShuffledEpochs(0, 4, 0)


def test_labels_are_dropped_in_the_share_asked_for() -> None:
    rows = torch.arange(10_000) % 7
    kept = drop_labels(rows, 99, 0.0, torch_rng(0))
    dropped = drop_labels(rows, 99, 0.25, torch_rng(0))
    assert torch.equal(kept, rows)
    assert (dropped == 99).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert torch.equal(dropped[dropped != 99], rows[dropped != 99])


def test_timesteps_of_a_batch_lie_one_in_each_part() -> None:
    timesteps = spread_timesteps(8, 1000, torch_rng(0))
    assert (timesteps.sort().values // 125).tolist() == list(range(8))
    assert timesteps.tolist() != timesteps.sort().values.tolist()


def test_each_timestep_alone_is_uniform() -> None:
    generator = torch_rng(0)
    drawn = torch.stack([spread_timesteps(3, 6, generator) for _ in range(4000)])
    for place in drawn.T:
        assert (torch.bincount(place, minlength=6) / 4000).tolist() == pytest.approx(
            [1 / 6] * 6, abs=0.03
        )


@pytest.mark.parametrize("count", [1, 5, 2000])
def test_timesteps_stay_in_range(count: int) -> None:
    drawn = torch.cat([spread_timesteps(count, 10, torch_rng(seed)) for seed in range(20)])
    assert 0 <= drawn.min() and drawn.max() <= 9
