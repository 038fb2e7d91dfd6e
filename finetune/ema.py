"""Averages of the weights over the steps of a run; the averaged weights are the ones that sample.

average <- decay * average + (1 - decay) * current, for the trained weights only.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

WINDOWS_PER_RUN = 5.0
"""A fitted decay averages over about 1/5 of the run and keeps exp(-5) = 0.7 % of its start."""
MAX_DECAY = 0.9999
"""The published decay, which suits runs of 50,000 steps and more."""


def fitted_decay(num_steps: int) -> float:
    """Return the decay that suits a run of this length: min(0.9999, 1 - 5 / num_steps).

    A fixed 0.9999 would leave a run of 1,500 steps with 86 % of the weights it started from.
    """
    return min(MAX_DECAY, max(0.0, 1.0 - WINDOWS_PER_RUN / num_steps))


def warmed_decay(decay: float, step: int) -> float:
    """Return `decay`, or less in the first steps, so that the random start is soon forgotten."""
    return min(decay, (1.0 + step) / (10.0 + step))


@torch.no_grad()
def update_average(
    average: Sequence[Tensor], current: Sequence[Tensor], decay: float | Tensor
) -> None:
    """Move each averaged tensor towards the current one of the same shape, in place.

    A `decay` that is a scalar tensor on their device can change while the work is replayed.
    """
    if isinstance(decay, Tensor):
        steps = torch._foreach_sub(list(current), list(average))
        torch._foreach_mul_(steps, 1.0 - decay)
        torch._foreach_add_(list(average), steps)
    else:
        torch._foreach_lerp_(list(average), list(current), 1.0 - decay)
