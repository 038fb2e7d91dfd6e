"""One training loop for every classifier: students, proxies, teachers, the fidelity judge.

What differs between them is the recipe (`StudentConfig`) and the objective, a function of logits
and the indices of the batch. Batches, augmentation and order come from one seed path, so that a
network is the same whatever ran before it. Shapes: N images, B batch, K classes.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillery.data.augment import AFFINE, DSA, AugmentConfig
from distillery.data.normalise import Images
from distillery.errors import TrainingError
from distillery.evaluation.config import StudentConfig
from distillery.evaluation.draws import StepDraw, augmented, draw_steps
from distillery.seeds import derive_seed

Objective = Callable[[Tensor, Tensor], Tensor]
"""(logits (B, K), indices (B,) into the images) -> scalar loss."""


def augmentation_of(config: StudentConfig) -> AugmentConfig | None:
    """Return the augmentation that a recipe names, None for `none`."""
    named = {
        "none": None,
        "affine": AFFINE,
        "affine-flip": replace(AFFINE, flip=True),
        "dsa": DSA,
        "dsa-no-flip": replace(DSA, flip=False),
    }
    return named[config.augmentation]


def cross_entropy_objective(labels: Tensor) -> Objective:
    """Return plain cross-entropy with hard labels (N,)."""
    return lambda logits, indices: F.cross_entropy(logits, labels[indices])


def soft_targets(teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of the teacher's probabilities and the hard label, (N, K)."""
    probabilities = teacher_logits.float().softmax(1)
    return (probabilities + F.one_hot(labels, probabilities.shape[1])) / 2


def soft_label_objective(teacher_logits: Tensor, labels: Tensor) -> Objective:
    """Return cross-entropy against `soft_targets`."""
    targets = soft_targets(teacher_logits, labels)
    return lambda logits, indices: F.cross_entropy(logits, targets[indices])


def train_classifier(
    network: nn.Module,
    images: Images,
    objective: Objective,
    config: StudentConfig,
    *,
    seed: int,
    background: Tensor | float = 0.0,
    on_step: Callable[[int], None] | None = None,
) -> nn.Module:
    """Train `network` in place for `config.num_steps` steps and return it in evaluation mode.

    Args:
        network: Normalised images (B, C, H, W) to logits (B, K).
        images: Normalised training images, (N, C, H, W), on the network's device.
        objective: Loss of a batch.
        config: The recipe.
        seed: Of batches and augmentation.
        background: Normalised value outside an augmented image, a number or (C,).
        on_step: Called with the number of steps done; may raise `Cancelled`.

    Raises:
        TrainingError: If the loss stops being finite.
    """
    augmentation = augmentation_of(config)
    fill = on_device(background, images.device)
    draws = draw_steps(
        config.num_steps, len(images), config.batch_size, augmentation, [step_generator(seed)],
        images.device,
    )  # fmt: skip
    network.train()

    def loss_of(draw: StepDraw) -> Tensor:
        indices = draw.indices[0]
        batch = augmented(images[indices], draw, augmentation, fill=fill)
        return objective(network(batch), indices)

    losses = take_steps(network.parameters(), draws, loss_of, config, on_step)
    check_finite(losses[:, None], config)
    return network.eval()


def check_finite(losses: Tensor, config: StudentConfig) -> None:
    """Raise TrainingError that names the classifiers with a loss that is not finite, and the step.

    Args:
        losses: Of each step and classifier, (T, S).
        config: Their recipe.
    """
    is_lost = ~torch.isfinite(losses)
    if not bool(is_lost.any()):
        return
    step = int(is_lost.any(1).nonzero()[0])
    lost = is_lost.any(0).nonzero()[:, 0].tolist()
    which = ", ".join(str(number + 1) for number in lost)
    which = f"classifier {which} of {losses.shape[1]}" if losses.shape[1] > 1 else "a classifier"
    value = losses[step][is_lost[step]][0].item()
    raise TrainingError(
        f"training {which}: the loss became {value} at step {step + 1} of {config.num_steps}: "
        f"lower its learning rate of {config.learning_rate}"
    )


def take_steps(
    weights: Iterable[Tensor],
    draws: Iterable[StepDraw],
    loss_of: Callable[[StepDraw], Tensor],
    config: StudentConfig,
    on_step: Callable[[int], None] | None,
) -> Tensor:
    """Move weights along the gradient of each draw's loss and return the losses of all T steps.

    Args:
        weights: All that is trained.
        draws: One for each of `config.num_steps` steps.
        loss_of: A draw to the loss, scalar or one of each student.
        config: The recipe: AdamW, its rate falling to zero along half a cosine.
        on_step: Called with the number of steps done; may raise `Cancelled`.
    """
    optimizer = torch.optim.AdamW(
        weights, config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.num_steps)
    losses = []
    for step, draw in enumerate(draws):
        loss = loss_of(draw)
        losses.append(loss.detach())
        optimizer.zero_grad(set_to_none=True)
        loss.sum().backward()
        optimizer.step()
        schedule.step()
        if on_step is not None:
            on_step(step + 1)
    return torch.stack(losses)


def step_generator(seed: int) -> torch.Generator:
    """Return the generator of a classifier's batches and augmentation, on the CPU."""
    return torch.Generator().manual_seed(derive_seed(seed, "train-classifier"))


def on_device(background: Tensor | float, device: torch.device) -> Tensor:
    """Return a background where the images are, so that no step has to move it."""
    return torch.as_tensor(background, dtype=torch.float32, device=device)


def inference_batch(image_size: int) -> int:
    """Return how many images go through a classifier together: 1000 up to 32 px, then fewer."""
    return max(16, min(1000, 2**20 // image_size**2))


@torch.no_grad()
def predict_logits(
    network: nn.Module, images: Images, *, on_batch: Callable[[int], None] | None = None
) -> Tensor:
    """Return the logits (N, K) of normalised images (N, C, H, W).

    `on_batch` is called after each batch with its number of images; may raise `Cancelled`.
    """
    logits = []
    for part in images.split(inference_batch(images.shape[-1])):
        logits.append(network(part))
        if on_batch is not None:
            on_batch(len(part))
    return torch.cat(logits)


@torch.no_grad()
def accuracy(network: nn.Module, images: Images, labels: Tensor) -> float:
    """Return the share of normalised images that `network` labels rightly, in [0, 1]."""
    return float((predict_logits(network, images).argmax(1) == labels).double().mean())
