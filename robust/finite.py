"""The numbers of a step, read from the device at once, and the end of a run that has lost one."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from distillery.errors import TrainingError


def read_finite(
    terms: Sequence[tuple[str, Tensor]], *, run: str, step: int, learning_rate: float
) -> list[float]:
    """Return the value of each term of a step; waits for the device once for all of them.

    Args:
        terms: What a message would call it, and a scalar, one or more.
        run: What is running.
        step: Of the run.
        learning_rate: Of the images.

    Raises:
        TrainingError: For the first that is not finite. The images have to be as they were.
    """
    numbers = torch.stack([value.detach().float() for _, value in terms]).tolist()
    for (name, _), number in zip(terms, numbers, strict=True):
        if not math.isfinite(number):
            raise TrainingError(
                f"{run}: {name} became {number} at step {step}: lower the learning rate of "
                f"{learning_rate:g}" + ("; the last good state is kept" if step else "")
            )
    return numbers
