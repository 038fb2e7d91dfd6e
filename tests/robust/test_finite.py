"""Numbers of a step are read together; the first that is lost ends the run with one sentence."""

import pytest
import torch

from distillery.errors import TrainingError
from robust.finite import read_finite


def test_values_come_back_in_order_without_their_graph():
    moving = torch.tensor(3.0, requires_grad=True)
    terms = [("a", moving.square()), ("b", torch.tensor(0.5, dtype=torch.bfloat16))]

    assert read_finite(terms, run="refine", step=0, learning_rate=0.1) == [9.0, 0.5]


@pytest.mark.parametrize("lost", [float("nan"), float("inf"), float("-inf")])
def test_the_first_lost_term_is_named(lost):
    terms = [("covariance", torch.tensor(1.0)), ("the gradient", torch.tensor(lost)),
             ("the loss", torch.tensor(float("nan")))]  # fmt: skip

    with pytest.raises(TrainingError) as caught:
        read_finite(terms, run="dm", step=7, learning_rate=0.25)

    assert str(caught.value) == (
        f"dm: the gradient became {lost} at step 7: lower the learning rate of 0.25; "
        "the last good state is kept"
    )
