"""Gradients of objectives that have none, from their values at random points nearby.

Source: Vahidian et al. (2024), Algorithm 2 and Eq. 17-18: Gaussian smoothing; with antithetic
pairs, Berahas et al. (2022), "A theoretical and empirical comparison of gradient approximations in
derivative-free optimization", section 2.3. Shapes: M directions; the point has any shape.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from distillery.models.classifiers import Classifier
from distillery.seeds import torch_rng
from robust.matching_types import Batch, Objective

Value = Callable[[Tensor], Tensor | float]
"""Point -> scalar; never asked for a gradient."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimated gradient and how far it can be trusted."""

    gradient: Tensor
    """Of the point's shape."""
    variance: Tensor
    """Estimated variance of each of its numbers, of the point's shape; it falls as 1 / M."""
    value: float
    """Of the objective at the point; with antithetic pairs the mean of what was seen around it."""
    num_evaluations: int


def estimate_gradient(
    objective: Value,
    point: Tensor,
    *,
    num_directions: int,
    sigma: float,
    generator: torch.Generator,
    antithetic: bool = True,
) -> Estimate:
    """Return the gradient of the objective, smoothed by a Gaussian of width `sigma`.

    With v ~ N(0, I): mean over directions of (L(x + sigma v) - L(x - sigma v)) / (2 sigma) v in
    antithetic pairs, whose even terms cancel; else of (L(x + sigma v) - L(x)) / sigma v (Eq. 17).
    Of a linear function each number has variance (|g|^2 + g_i^2) / M: as many directions as the
    point has numbers leave an error as large as the gradient itself.

    Args:
        objective: Gives a finite number.
        point: Where, floating point.
        num_directions: M >= 2, for the variance.
        sigma: Step, above 0; a thousandth of the scale of the values is about as small as float32
            can tell apart.
        generator: On the CPU; the same state gives the same directions on any device.
        antithetic: Pairs, two evaluations a direction; else one a direction and one at the point.

    Raises:
        ValueError: If `num_directions` or `sigma` is out of range.
    """
    if num_directions < 2 or not sigma > 0:
        raise ValueError(
            "zero-order gradients need num_directions of 2 or more and sigma above 0, "
            f"got {num_directions} and {sigma}"
        )
    point = point.detach()
    with torch.no_grad():
        centre = None if antithetic else float(objective(point))
        total, squares, seen = torch.zeros_like(point), torch.zeros_like(point), 0.0
        for _ in range(num_directions):
            direction = torch.randn(point.shape, generator=generator, dtype=point.dtype)
            direction = direction.to(point.device)
            ahead = float(objective(point + sigma * direction))
            if centre is None:
                behind = float(objective(point - sigma * direction))
                slope, seen = (ahead - behind) / (2 * sigma), seen + (ahead + behind) / 2
            else:
                slope = (ahead - centre) / sigma
            term = slope * direction
            total += term
            squares += term.square()
    mean = total / num_directions
    spread = (squares / num_directions - mean.square()).clamp(min=0) / (num_directions - 1)
    value = seen / num_directions if centre is None else centre
    evaluations = 2 * num_directions if centre is None else num_directions + 1
    return Estimate(mean, spread, value, evaluations)


def step_size(epoch: int, first: float = 0.1) -> float:
    """Return the step of an epoch counted from 0, `first` / sqrt(1 + epoch). Source: Eq. 18."""
    return first / (1 + epoch) ** 0.5


def without_gradient(
    objective: Objective, *, num_directions: int, sigma: float, seed: int
) -> Objective:
    """Return an objective whose value is given and whose gradient is estimated from values.

    It stands wherever an objective with a gradient does: its graph is the value plus the estimated
    slope along the images. The given objective may leave torch altogether.

    Args:
        objective: Called with batches whose images carry no gradient.
        num_directions: See `estimate_gradient`.
        sigma: In units of the normalised image.
        seed: Of the directions. Those of a step depend on it, on the step (`Batch.step`) and on the
            first class of the batch alone, so a run that was cut ends as one that was not.
    """

    def estimated(network: Classifier, real: Batch, synthetic: Batch, num_classes: int) -> Tensor:
        def value(images: Tensor) -> Tensor:
            return objective(network, real, replace(synthetic, images=images), num_classes)

        first = int(synthetic.labels.min())
        generator = torch_rng(seed, "zero-order", synthetic.step, first)
        found = estimate_gradient(
            value, synthetic.images,
            num_directions=num_directions, sigma=sigma, generator=generator,
        )  # fmt: skip
        moved = synthetic.images - synthetic.images.detach()  # zero, with a gradient of one
        return found.value + (found.gradient * moved).sum()

    return estimated
