"""Training one student by a published recipe: epochs, SGD or AdamW, hard labels or a teacher's.

The set lies raw on the device; batches, augmentation and order come from one seed, so that a
student is the same whatever ran before it. Shapes: N images, B batch, C channels, K classes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillery.data.normalise import Normalisation
from distillery.errors import TrainingError
from distillery.evaluation.protocols import Recipe
from distillery.evaluation.views import View, cutmix, make_view
from distillery.seeds import derive_seed

Teacher = Callable[[Tensor], Tensor]
"""Normalised images (B, C, H, W) -> logits (B, K)."""
OnEpoch = Callable[[int], None]
"""Told the number of epochs done; may raise `Cancelled`."""
MOMENTUM = 0.9


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSet:
    """What a student learns from, on the device where it learns."""

    images: Tensor
    """Raw uint8 (N, C, H, W)."""
    labels: Tensor
    """int64 (N,)."""
    normalisation: Normalisation
    teacher: Teacher | None = None
    """Gives soft labels of each batch as the student sees it."""
    teacher_logits: Tensor | None = None
    """Soft labels (N, K) of the images as they are, where there is no teacher to ask."""


def train_student(
    network: nn.Module,
    training_set: TrainingSet,
    recipe: Recipe,
    *,
    seed: int,
    flip: bool,
    on_epoch: OnEpoch | None = None,
) -> nn.Module:
    """Train `network` in place by the recipe and return it in evaluation mode.

    Raises:
        TrainingError: If the loss stops being finite.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "train-student"))
    view = make_view(recipe.augmentation, training_set.normalisation, flip=flip)
    optimizer = make_optimizer(network, recipe)
    losses: list[Tensor] = []
    for epoch in range(recipe.num_epochs):
        network.train()  # `on_epoch` may have measured it
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * rate_factor(recipe, epoch)
        order = torch.randperm(len(training_set.images), generator=generator)
        for indices in order.to(training_set.images.device).split(recipe.batch_size):
            loss = batch_loss(network, training_set, indices, recipe, view, generator)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        if on_epoch is not None:
            on_epoch(epoch + 1)
    _check_finite(losses, recipe)
    return network.eval()


def _check_finite(losses: list[Tensor], recipe: Recipe) -> None:
    """Raise TrainingError for the first step whose loss is not finite."""
    lost = (~torch.isfinite(torch.stack(losses))).nonzero()
    if len(lost):
        step = int(lost[0])
        raise TrainingError(
            f"the loss of a student became {losses[step].item()} at step {step + 1} of "
            f"{len(losses)} at the protocol's rate of {recipe.learning_rate}: choose another "
            "network or other images"
        )


def batch_loss(
    network: nn.Module, training_set: TrainingSet, indices: Tensor, recipe: Recipe, view: View,
    generator: torch.Generator,
) -> Tensor:  # fmt: skip
    """Return the loss of the images at `indices` (B,) as the recipe shows and labels them.

    Cross-entropy with both labels of a CutMix image by the share of each; with soft labels the
    divergence of the student from the teacher, both at the recipe's temperature.
    """
    images = view(training_set.images[indices].float() / 255, generator)
    partner, share = None, 1.0
    if recipe.cutmix:
        images, partner, share = cutmix(images, generator)
    logits = network(images)
    if recipe.temperature is not None:
        target = _soft_target(training_set, images, indices, partner, share, recipe.temperature)
        log_probabilities = (logits / recipe.temperature).log_softmax(1)
        return F.kl_div(log_probabilities, target, reduction="batchmean")
    labels = training_set.labels[indices]
    loss = F.cross_entropy(logits, labels)
    if partner is not None:
        loss = share * loss + (1 - share) * F.cross_entropy(logits, labels[partner])
    return loss


@torch.no_grad()
def _soft_target(
    training_set: TrainingSet, images: Tensor, indices: Tensor, partner: Tensor | None,
    share: float, temperature: float,
) -> Tensor:  # fmt: skip
    """Return the probabilities (B, K) that the student should give, at the temperature."""
    if training_set.teacher is not None:
        return (training_set.teacher(images) / temperature).softmax(1)
    assert training_set.teacher_logits is not None, "soft labels need a teacher or its logits"
    target = (training_set.teacher_logits[indices].float() / temperature).softmax(1)
    return target if partner is None else share * target + (1 - share) * target[partner]


def make_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the recipe's optimiser."""
    parameters = list(network.parameters())
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, recipe.learning_rate, momentum=MOMENTUM,
            weight_decay=recipe.weight_decay, fused=True,
        )  # fmt: skip
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, recipe.learning_rate, weight_decay=recipe.weight_decay,
        fused=True,
    )  # fmt: skip


def rate_factor(recipe: Recipe, epoch: int) -> float:
    """Return what the learning rate is multiplied by in an epoch, counted from 0."""
    length = recipe.num_epochs
    if recipe.schedule == "half":
        return 1.0 if 2 * epoch < length else 0.1
    if recipe.schedule == "multistep":
        return 0.2 ** sum(epoch >= at for at in (2 * length // 3, 5 * length // 6))
    return 0.5 * (1 + math.cos(math.pi * epoch / (2 * length)))
