"""Siamese augmentation: one draw for each class, for its real and its synthetic images alike.

Source: Zhao & Bilen (2021), "Dataset Condensation with Differentiable Siamese Augmentation".
Shapes: N images, K classes.
"""

from dataclasses import replace

import torch
from torch import Tensor

from distillery.data.augment import (
    AugmentConfig,
    AugmentDraw,
    apply_augmentation,
    chosen_part,
    draw_each,
)
from distillery.seeds import torch_rng
from robust.matching_types import Batch

NOWHERE = -1.0
"""Centre of a cutout that leaves all of the image."""


def siamese_draws(classes: Tensor, config: AugmentConfig, seed: int) -> AugmentDraw:
    """Return one draw of augmentation for each class, for its real and synthetic images alike.

    Args:
        classes: In ascending order, (K,).
        config: Of a `single` one each class gets the part that it draws.
        seed: A class's draw depends on it and on the class alone.
    """
    generators = [torch_rng(seed, "siamese", label) for label in classes.tolist()]
    parts = [chosen_part(config, generator) for generator in generators]
    draw = draw_each(parts, generators)
    cut = torch.tensor([part.cutout > 0 for part in parts])
    centre = torch.where(cut[:, None], draw.cutout_centre, NOWHERE)
    return AugmentDraw(draw.theta, draw.colour, centre, draw.leaves_places())


def augmented(
    batch: Batch, classes: Tensor, draws: AugmentDraw, config: AugmentConfig, fill: Tensor | float
) -> Batch:
    """Return a batch whose images went through the draw of their class (see `siamese_draws`)."""
    rows = torch.searchsorted(classes, batch.labels)
    numbers = (draws.theta[rows], draws.colour[rows], draws.cutout_centre[rows])
    draw = AugmentDraw(*numbers, draws.is_still)
    images = apply_augmentation(batch.images, draw, config, fill=fill)
    return replace(batch, images=images)
