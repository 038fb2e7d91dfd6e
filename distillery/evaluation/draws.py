"""What a training step draws: the images of its batch and how they are augmented.

Everything is drawn on the CPU, step by step, from a generator of each student's own: a student is
the same on any device, and beside whatever others. For another device the numbers of many steps
are moved together, so that its queue of work is not waited for in each step.
Shapes: S students, N images, B batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distillery.data.augment import (
    AugmentConfig,
    AugmentDraw,
    apply_augmentation,
    draw_augmentation,
)

STEPS_AHEAD = 64
"""Steps whose numbers are moved to a device together: about a megabyte of batches of 256."""


@dataclass(frozen=True, slots=True)
class StepDraw:
    """The random numbers of one step, on the device."""

    indices: Tensor
    """Images of each student's batch, int64 (S, B)."""
    augmentation: AugmentDraw | None
    """Of the S * B images, student by student; None: none."""


def batch_indices(num_images: int, batch_size: int, generator: torch.Generator) -> Tensor:
    """Return the whole set in order where it fits one batch, else a draw without replacement."""
    if num_images <= batch_size:
        return torch.arange(num_images)
    return torch.randperm(num_images, generator=generator)[:batch_size]


def draw_steps(
    num_steps: int,
    num_images: int,
    batch_size: int,
    augmentation: AugmentConfig | None,
    generators: Sequence[torch.Generator],
    device: torch.device,
) -> Iterator[StepDraw]:
    """Yield the draws of each of `num_steps` steps.

    Args:
        num_steps: How many.
        num_images: N, of each student.
        batch_size: Of each student; a smaller set is used whole.
        augmentation: An own draw for each image, or None; a `single` one is not for here.
        generators: One for each student, on the CPU; each is asked in the same order as alone.
        device: Where the draws are needed.
    """
    assert augmentation is None or not augmentation.single
    ahead = 1 if _is_host(device) else STEPS_AHEAD
    for first in range(0, num_steps, ahead):
        block = [
            _draw_step(num_images, batch_size, augmentation, generators)
            for _ in range(min(ahead, num_steps - first))
        ]
        yield from block if _is_host(device) else _moved(block, device)


def augmented(
    images: Tensor, draw: StepDraw, config: AugmentConfig | None, *, fill: Tensor
) -> Tensor:
    """Return the images of a step (S * B, C, H, W) as its draw shows them."""
    if config is None or draw.augmentation is None:
        return images
    return apply_augmentation(images, draw.augmentation, config, fill=fill)


def _draw_step(
    num_images: int, batch_size: int, augmentation: AugmentConfig | None,
    generators: Sequence[torch.Generator],
) -> StepDraw:  # fmt: skip
    """Return the draws of one step, on the CPU."""
    indices, draws = [], []
    for generator in generators:
        own = batch_indices(num_images, batch_size, generator)
        indices.append(own)
        if augmentation is not None:
            draws.append(draw_augmentation(len(own), augmentation, generator))
    return StepDraw(torch.stack(indices), _joined(draws) if draws else None)


def _joined(draws: Sequence[AugmentDraw]) -> AugmentDraw:
    """Return the draws of several batches as one."""
    if len(draws) == 1:
        return draws[0]
    return AugmentDraw(
        torch.cat([draw.theta for draw in draws]),
        torch.cat([draw.colour for draw in draws]),
        torch.cat([draw.cutout_centre for draw in draws]),
    )


def _moved(block: Sequence[StepDraw], device: torch.device) -> Iterator[StepDraw]:
    """Yield the steps of a block on the device, moved in a few copies."""
    indices = torch.stack([step.indices for step in block]).to(device)  # (T, S, B)
    draws = [step.augmentation for step in block if step.augmentation is not None]
    if not draws:
        yield from (StepDraw(own, None) for own in indices)
        return
    still = [draw.leaves_places() for draw in draws]
    theta, colour, centre = (
        torch.stack([getattr(draw, name) for draw in draws]).to(device)
        for name in ("theta", "colour", "cutout_centre")
    )
    for step, own in enumerate(indices):
        yield StepDraw(own, AugmentDraw(theta[step], colour[step], centre[step], still[step]))


def _is_host(device: torch.device) -> bool:
    """Say whether draws are already where they are needed."""
    return device.type == "cpu"
