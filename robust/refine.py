"""Refinement: the chosen images move until networks see them as they see the real ones.

Distribution matching against a sequence of proxies, with siamese augmentation: the mean of each
class, and of each cluster of real samples around a synthetic one, re-formed at every step (Vahidian
et al. 2024, Algorithm 1). Classes are taken a few at a time, so memory does not grow with them.
Shapes: S synthetic images, B real ones, C, H, W, D features, K classes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from distillery.checkpoint import Checkpoint
from distillery.data.augment import AugmentConfig, apply_augmentation, draw_augmentation
from distillery.data.normalise import Images
from distillery.errors import Cancelled, TrainingError
from distillery.models.classifiers import Classifier
from distillery.progress import OnProgress, Progress
from distillery.seeds import torch_rng
from robust.clusters import assign_to_centres
from robust.config import RefineConfig
from robust.finite import read_finite
from robust.matching import mean_matching_loss
from robust.matching_types import Batch, WeightedConstraint

Decode = Callable[[Tensor], Tensor]
"""Parameters of the images -> normalised images; differentiable. Identity for pixels."""


@dataclass(frozen=True, slots=True)
class RealImages:
    """Normalised real images of the train split, (N, C, H, W), with labels (N,)."""

    images: Images
    labels: Tensor
    _rows: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def rows_of(self, label: int) -> Tensor:
        """Return the indices of a class's images, on the CPU; looked for once."""
        if label not in self._rows:
            self._rows[label] = torch.nonzero(self.labels == label)[:, 0].cpu()
        return self._rows[label]

    def draw(
        self, classes: Tensor, per_class: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return up to `per_class` random images of each of `classes`, with labels."""
        picks = []
        for label in classes.tolist():
            members = self.rows_of(label)
            picks.append(members[torch.randperm(len(members), generator=generator)[:per_class]])
        indices = torch.cat(picks).to(self.labels.device)
        return self.images[indices], self.labels[indices]


@dataclass(frozen=True, slots=True)
class RefineResult:
    """Refined parameters and the objective at each step."""

    parameters: Tensor
    losses: list[float]


def matching_loss(
    network: Classifier,
    real: tuple[Tensor, Tensor],
    synthetic: tuple[Tensor, Tensor],
    *,
    num_classes: int,
    cluster_weight: float,
) -> Tensor:
    """Return class matching + `cluster_weight` x cluster matching in the network's features.

    Args:
        network: Has `features(images) -> (N, D)`.
        real: Augmented images (B, C, H, W) and labels (B,).
        synthetic: Augmented images (S, C, H, W) and labels (S,).
        num_classes: K.
        cluster_weight: 0 for class means alone.
    """
    (real_images, real_labels), (images, labels) = real, synthetic
    with torch.no_grad():
        real_features = network.features(real_images)
    features = network.features(images)
    loss = mean_matching_loss(real_features, real_labels, features, labels, num_classes)
    if cluster_weight:
        clusters = assign_to_centres(real_features, real_labels, features.detach(), labels)
        own = torch.arange(len(labels), device=labels.device)
        loss = loss + cluster_weight * mean_matching_loss(
            real_features, clusters, features, own, len(labels)
        )
    return loss / features.shape[1]


def refine(
    parameters: Tensor,
    labels: Tensor,
    reals: RealImages,
    make_proxy: Callable[[int], Classifier],
    config: RefineConfig,
    *,
    decode: Decode,
    project: Callable[[Tensor], Tensor],
    views: int = 1,
    augmentation: AugmentConfig | None,
    num_classes: int,
    seed: int,
    background: Tensor | float = 0.0,
    constraints: tuple[WeightedConstraint, ...] = (),
    checkpoint: Checkpoint | None = None,
    on_progress: OnProgress,
) -> RefineResult:
    """Move image parameters by Adam so that proxies see them as they see real images.

    Args:
        parameters: Start, (S, ...); for pixels the normalised images themselves.
        labels: Class of each image, (S,).
        reals: The train split.
        make_proxy: Number of the proxy -> network with `features`; called again on a resume.
        config: Steps, rates and weights.
        decode: Parameters to normalised images.
        project: Parameters to the nearest ones that raw images can hold, after each step.
        views: Images that `decode` makes of each parameter, following each other.
        augmentation: Siamese augmentation of both sides, or None.
        num_classes: K.
        seed: Of real batches and augmentation.
        background: Normalised value outside an augmented image.
        constraints: What is asked of the images beside the matching.
        checkpoint: Where the state is kept, or None.
        on_progress: Told of each step; may raise `Cancelled`, the state is saved first.

    Raises:
        TrainingError: If a term stops being finite; the last good state is kept.
    """
    state = _State.start(parameters, config, checkpoint)
    proxy: Classifier | None = None
    proxy_number = -1
    for step in range(state.step, config.num_steps):
        try:
            if proxy is None or step // config.steps_per_proxy != proxy_number:
                proxy_number = step // config.steps_per_proxy
                proxy = make_proxy(proxy_number)
            loss = _refine_step(
                state, labels, reals, proxy, config, decode=decode, views=views,
                augmentation=augmentation, num_classes=num_classes, background=background,
                constraints=constraints, seed=seed, step=step,
            )  # fmt: skip
        except TrainingError:
            if checkpoint is not None and state.losses:
                state.save(checkpoint)  # no step was taken
            raise
        with torch.no_grad():
            state.values.copy_(project(state.values))
        state.step = step + 1
        state.losses.append(loss)
        state.report(config.num_steps, checkpoint, on_progress)
    return RefineResult(state.values.detach().clone(), state.losses)


def cosine_decay(step: int, num_steps: int) -> float:
    """Return the share of the learning rate at a step: from 1 down towards 0 (half a cosine)."""
    return 0.5 * (1 + math.cos(math.pi * step / num_steps))


def _refine_step(
    state: "_State", labels: Tensor, reals: RealImages, proxy: Classifier, config: RefineConfig, *,
    decode: Decode, views: int, augmentation: AugmentConfig | None, num_classes: int,
    background: Tensor | float, constraints: tuple[WeightedConstraint, ...], seed: int, step: int,
) -> float:  # fmt: skip
    """Take one Adam step over all classes, a few at a time; return the mean loss.

    Where a term or the gradient is not finite, no step is taken.
    """
    generator = torch_rng(seed, "refine", step)
    for group in state.optimizer.param_groups:
        group["lr"] = config.learning_rate * cosine_decay(step, config.num_steps)
    gradient = torch.zeros_like(state.values)
    terms: list[tuple[str, Tensor]] = []
    losses: list[Tensor] = []
    for part in labels.unique().split(config.classes_per_step):
        mine = torch.isin(labels, part)
        real_images, real_labels = reals.draw(part, config.reals_per_class, generator)
        moving = state.values.detach()[mine].requires_grad_()
        images, own = decode(moving), labels[mine].repeat_interleave(views)
        if augmentation is not None:
            draw = draw_augmentation(1, augmentation, generator)
            images = apply_augmentation(images, draw, augmentation, fill=background)
            real_images = apply_augmentation(real_images, draw, augmentation, fill=background)
        loss = matching_loss(
            proxy, (real_images, real_labels), (images, own),
            num_classes=num_classes, cluster_weight=config.cluster_weight,
        )  # fmt: skip
        terms.append(("the matching objective", loss.detach()))
        sides = Batch(real_images, real_labels), Batch(images, own, step=step)
        for one in constraints:
            # Published weights stand beside DM's sum over classes and features; this is a mean
            scale = one.weight / (len(part) * proxy.head.in_features)
            value = scale * one.term(proxy, *sides, num_classes)
            terms.append((one.name, value.detach()))
            loss = loss + value
        gradient[mine] = torch.autograd.grad(loss, moving)[0]
        losses.append(loss.detach())
    # a step would spoil the images for good, whatever the loss
    terms.append(("the gradient", gradient.abs().amax()))
    values = read_finite(
        [*terms, *(("the loss", loss) for loss in losses)],
        run="refine", step=step, learning_rate=config.learning_rate,
    )  # fmt: skip
    state.values.grad = gradient
    state.optimizer.step()
    return sum(values[len(terms) :]) / len(losses)


class _State:
    """Parameters, Adam's moments, losses and step: all that a resumed refinement needs."""

    def __init__(self, parameters: Tensor, config: RefineConfig) -> None:
        self.values = parameters.clone().requires_grad_()
        self.optimizer = torch.optim.Adam([self.values], lr=config.learning_rate)
        self.step = 0
        self.losses: list[float] = []

    @classmethod
    def start(
        cls, parameters: Tensor, config: RefineConfig, checkpoint: Checkpoint | None
    ) -> "_State":
        """Return the checkpoint's state, or a fresh one."""
        state = cls(parameters, config)
        saved = checkpoint.load() if checkpoint is not None else None
        if saved is not None:
            arrays, facts = saved
            with torch.no_grad():
                state.values.copy_(torch.from_numpy(arrays["values"]))
            state.step, state.losses = facts["step"], list(facts["losses"])
            state.optimizer.state[state.values] = {
                "step": torch.tensor(float(state.step)),
                "exp_avg": torch.from_numpy(arrays["exp_avg"]).to(parameters),
                "exp_avg_sq": torch.from_numpy(arrays["exp_avg_sq"]).to(parameters),
            }
        return state

    def save(self, checkpoint: Checkpoint) -> None:
        """Write the state."""
        adam = self.optimizer.state[self.values]
        arrays = {
            "values": self.values.detach().cpu().numpy(),
            "exp_avg": adam["exp_avg"].cpu().numpy(),
            "exp_avg_sq": adam["exp_avg_sq"].cpu().numpy(),
        }
        checkpoint.save(arrays, {"step": self.step, "losses": self.losses})

    def report(self, total: int, checkpoint: Checkpoint | None, on_progress: OnProgress) -> None:
        """Tell the progress; save when due, and before a `Cancelled` goes up."""
        metrics = {"loss": self.losses[-1]}
        if checkpoint is None:
            on_progress(Progress("refine", self.step, total, metrics=metrics))
            return
        if checkpoint.is_due():
            self.save(checkpoint)
        try:
            on_progress(Progress("refine", self.step, total, metrics=metrics))
        except Cancelled:
            self.save(checkpoint)
            raise
