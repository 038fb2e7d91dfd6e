"""Several students of one architecture trained as one: stacked weights, one call for all of them.

A small student keeps a GPU busy for a fraction of the time that it takes to ask for its work, so
asking once for several is nearly free there. On a CPU it is slower (`benchmarks/batched_students`).
Each student has its own weights, batches and augmentation, by the seed that it would have alone.
Shapes: S students, N images of each, M images of all, B batch, C channels, H and W, K classes.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from distillery.data.normalise import Images
from distillery.evaluation.config import StudentConfig
from distillery.evaluation.draws import StepDraw, augmented, draw_steps
from distillery.evaluation.training import (
    augmentation_of,
    check_finite,
    on_device,
    step_generator,
    take_steps,
)

MOST_TOGETHER = 5
LARGEST_TOGETHER = 64
"""Side in pixels; a student of larger images fills a GPU alone, and memory would be multiplied."""


def students_together(device: torch.device, image_size: int) -> int:
    """Return how many students to train at once: 1, but several small ones on a GPU.

    The measured ratio on a CPU is below 1; on a GPU five were 2.5 times one after another for
    narrow networks, 1.7 at a width of 128 (batched_students.json). The size limit is deduced.
    """
    pays = device.type == "cuda" and image_size <= LARGEST_TOGETHER
    return MOST_TOGETHER if pays else 1


class Together:
    """Networks of one architecture with their weights stacked."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        """Copy the weights; the networks are left alone until `hand_back`."""
        self._networks = networks
        stacked: dict[str, Tensor] = stack_module_state(list(networks))[0]
        # in ordinary memory order, the only one that vmap knows
        self.weights = {
            name: weight.detach().contiguous().requires_grad_() for name, weight in stacked.items()
        }
        self._forward = vmap(self._one)

    def _one(self, weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Return the logits (B, K) of one student."""
        return functional_call(self._networks[0], dict(weights), (images,))

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits (S, B, K) of images (S, B, C, H, W), differentiable in the weights."""
        return self._forward(self.weights, images)

    @torch.no_grad()
    def hand_back(self) -> None:
        """Write its weights into each network."""
        for student, network in enumerate(self._networks):
            for name, weight in network.named_parameters():
                weight.copy_(self.weights[name][student])


def losses_of(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of each student, (S,).

    Args:
        logits: (S, B, K).
        targets: Labels, int64 (S, B), or probabilities (S, B, K).
    """
    students, batch = logits.shape[:2]
    each = F.cross_entropy(logits.flatten(0, 1), targets.flatten(0, 1), reduction="none")
    return each.reshape(students, batch).mean(1)


def train_classifiers(
    networks: Sequence[nn.Module],
    images: Images,
    targets: Tensor,
    rows: Tensor,
    config: StudentConfig,
    *,
    seeds: Sequence[int],
    background: Tensor | float = 0.0,
    on_step: Callable[[int], None] | None = None,
) -> Sequence[nn.Module]:
    """Train networks of one architecture together, each as `train_classifier` would alone.

    Equal up to rounding to one after another. Memory for activations grows with the students: S
    times that of one, so it is for small ones (`students_together`).

    Args:
        networks: S networks without buffers, trained in place; they return in evaluation mode.
        images: Normalised images of all sets, (M, C, H, W), on the networks' device.
        targets: Of `images`: labels, int64 (M,), or probabilities (M, K).
        rows: Which of `images` each student learns from, int64 (S, N).
        config: The recipe.
        seeds: Of each student's batches and augmentation.
        background: Normalised value outside an augmented image, a number or (C,).
        on_step: Called with the number of steps done; may raise `Cancelled`.

    Raises:
        TrainingError: If a student's loss stops being finite; the others are trained nevertheless.
    """
    students = Together(networks)
    augmentation, fill = augmentation_of(config), on_device(background, images.device)
    draws = draw_steps(
        config.num_steps, rows.shape[1], config.batch_size, augmentation,
        [step_generator(seed) for seed in seeds], images.device,
    )  # fmt: skip
    for network in networks:
        network.train()

    def losses_at(draw: StepDraw) -> Tensor:
        own = rows.gather(1, draw.indices)  # (S, B)
        batch = augmented(images[own.flatten()], draw, augmentation, fill=fill)
        return losses_of(students(batch.unflatten(0, own.shape)), targets[own])

    losses = take_steps(students.weights.values(), draws, losses_at, config, on_step)
    students.hand_back()
    check_finite(losses, config)
    return [network.eval() for network in networks]
