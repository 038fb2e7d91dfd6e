"""Averaged weights: the value by hand, and a decay that forgets the start of any run."""

import pytest
import torch

from finetune.ema import fitted_decay, update_average, warmed_decay


def test_the_average_moves_by_one_minus_decay() -> None:
    average, current = [torch.tensor([1.0, 2.0])], [torch.tensor([3.0, 2.0])]
    update_average(average, current, 0.75)
    assert average[0].tolist() == [1.5, 2.0]  # 0.75 * 1 + 0.25 * 3


def test_a_decay_on_the_device_does_the_same() -> None:
    average, current = [torch.tensor([1.0, 2.0])], [torch.tensor([3.0, 2.0])]
    update_average(average, current, torch.tensor(0.75))
    assert average[0].tolist() == [1.5, 2.0]
    assert current[0].tolist() == [3.0, 2.0]


def test_no_decay_copies_the_weights() -> None:
    average, current = [torch.zeros(3)], [torch.tensor([0.1, 0.2, 0.3])]
    update_average(average, current, 0.0)
    assert torch.equal(average[0], current[0])


@pytest.mark.parametrize("num_steps", [20, 200, 1500, 12_000])
def test_a_fitted_decay_leaves_little_of_the_start(num_steps: int) -> None:
    assert fitted_decay(num_steps) ** num_steps < 0.01
    # while the published decay would leave much of it
    assert 0.9999**num_steps > 0.3


def test_a_fitted_decay_is_at_most_the_published_one() -> None:
    assert fitted_decay(10**7) == 0.9999
    assert fitted_decay(200) == pytest.approx(0.975)
    assert fitted_decay(1) == 0.0


def test_the_first_steps_decay_faster() -> None:
    assert warmed_decay(0.995, 0) == pytest.approx(0.1)
    assert warmed_decay(0.995, 100_000) == 0.995
