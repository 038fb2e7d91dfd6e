"""The engine of matching: synthetic images move until networks see them as they see real ones.

One loop for every method of `robust.methods`: networks from the method's plan, real images drawn
for a few classes at a time (memory does not grow with the classes), one draw of augmentation per
class for both sides. Shapes: P stored images, V views of each, C, H, W, K classes.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distillery.checkpoint import Checkpoint
from distillery.errors import Cancelled, TrainingError
from distillery.models.classifiers import Classifier
from distillery.progress import OnProgress, Progress
from distillery.seeds import derive_seed, torch_rng
from robust.finite import read_finite
from robust.matching_types import Batch, Method, Parameterisation
from robust.moving_clusters import clusters_per_class
from robust.networks import NetworkStream, Surroundings, open_networks
from robust.objectives import shared_feature_maps
from robust.representatives import Representatives
from robust.siamese import augmented, siamese_draws


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """When the images are done: the first of the two that is reached."""

    iterations: int | None = None
    """None: the method's published number."""
    seconds: float | None = None
    """Of `clock`; None: no limit. A result under a limit depends on the machine's speed."""
    clock: Callable[[], float] = time.thread_time
    """CPU seconds of this thread, which other work on the machine does not lengthen."""


@dataclass(frozen=True, slots=True)
class Distilled:
    """The images that an engine's run ended with, and what it took."""

    parameters: Tensor
    """What was optimised, (P, ...)."""
    images: Tensor
    """The distilled set, normalised images (P, C, H, W)."""
    losses: list[float]
    """Objective and constraints at each iteration."""
    seconds: float
    """Of the budget's clock."""


def distil(
    method: Method,
    start: Tensor,
    labels: Tensor,
    around: Surroundings,
    parameterisation: Parameterisation,
    *,
    budget: Budget,
    classes_per_step: int = 20,
    checkpoint: Checkpoint | None = None,
    on_progress: OnProgress = lambda progress: None,
) -> Distilled:
    """Run a method from a start until its budget ends.

    Args:
        method: The row.
        start: Normalised images that the parameterisation encodes, (P * V, C, H, W).
        labels: Class of each stored image, (P,).
        around: Real images, architecture, seed.
        parameterisation: What is stored, and how images come out of it.
        budget: Iterations and seconds.
        classes_per_step: Classes whose real and synthetic images are in memory together.
        checkpoint: Where the state is kept, or None.
        on_progress: Told of each iteration; may raise `Cancelled`, the state is saved first.

    Raises:
        TrainingError: If a term or its gradient stops being finite; the last good state is kept.
    """
    run = _Run(method, start, labels, around, parameterisation, budget)
    run.resume(checkpoint)
    while not run.is_over():
        try:
            run.iterate(classes_per_step)
        except TrainingError:
            if checkpoint is not None and run.losses:
                run.save(checkpoint)  # no step was taken: this is the last good state
            raise
        run.report(checkpoint, on_progress)
    values = run.values.detach().clone()
    return Distilled(values, parameterisation.store(values), run.losses, run.seconds())


def stages_of(labels: Tensor, stages: int) -> Tensor:
    """Return the stage in which each image moves, int64 (P,): an equal share of every class.

    Raises:
        ValueError: If the images of a class cannot be shared equally.
    """
    result = torch.zeros_like(labels)
    for label in labels.unique().tolist():
        members = torch.nonzero(labels == label)[:, 0]
        if len(members) % stages:
            raise ValueError(
                f"class {label} has {len(members)} images, which {stages} stages cannot share"
            )
        result[members] = torch.arange(len(members)).to(labels) * stages // len(members)
    return result


@dataclass(frozen=True, slots=True)
class _Part:
    """Classes that are taken together, and their images of one stage."""

    labels: Tensor
    """The classes, ascending, on the CPU: the host draws for each."""
    classes: Tensor
    """The same on the device."""
    stored: Tensor | None
    """Indices of the stored images; None: all."""
    views: Tensor
    """Class of each of their views."""


class _Run:
    """The state of a run: parameters, optimiser, networks, losses and the time spent."""

    def __init__(
        self, method: Method, start: Tensor, labels: Tensor, around: Surroundings,
        parameterisation: Parameterisation, budget: Budget,
    ) -> None:  # fmt: skip
        self.method, self.labels, self.around, self.budget = method, labels, around, budget
        self.parameterisation = parameterisation
        self.views = labels.repeat_interleave(parameterisation.views)  # (P * V,)
        self.stage, self.stages = 0, stages_of(labels, method.stages)
        with torch.no_grad():
            self.values = parameterisation.encode(start).clone().requires_grad_()
        if method.optimiser == "adam":
            self.optimiser: torch.optim.Optimizer = torch.optim.Adam(
                [self.values], method.learning_rate
            )
        else:
            self.optimiser = torch.optim.SGD(
                [self.values], method.learning_rate, momentum=method.momentum
            )
        stored_per_class = int(labels.bincount()[labels.unique()].max())
        background = torch.as_tensor(around.background, device=labels.device)  # moved once
        around = replace(
            around, num_centres=clusters_per_class(stored_per_class), background=background
        )
        self.networks: NetworkStream = open_networks(method.networks, around)
        self._parts: dict[tuple[int, int], list[_Part]] = {}
        self.representatives: Representatives | None = None
        if method.sampling == "representative":
            self.representatives = Representatives(around.reals, around.seed)
        self.losses: list[float] = []
        self._spent, self._began = 0.0, budget.clock()

    @property
    def num_iterations(self) -> int:
        """Return the number of iterations that ends the run."""
        limit = self.budget.iterations
        return self.method.num_iterations if limit is None else limit

    def seconds(self) -> float:
        """Return the seconds spent, those before a resume too."""
        return self._spent + self.budget.clock() - self._began

    def share_done(self) -> float:
        """Return how much of the budget is used, in [0, 1]."""
        share = len(self.losses) / self.num_iterations
        if self.budget.seconds is not None:  # none are left: nothing is done
            limit = self.budget.seconds
            share = max(share, self.seconds() / limit if limit > 0 else 1.0)
        return min(1.0, share)

    def is_over(self) -> bool:
        """Say whether the budget is used up."""
        return self.share_done() >= 1

    def synthetic(self) -> Batch:
        """Return the images up to the present stage, decoded, without gradient."""
        return self._decoded(self.stages <= self.stage)

    def earlier(self) -> Batch:
        """Return the images of the stages before this one, decoded, without gradient."""
        return self._decoded(self.stages < self.stage)

    def _decoded(self, rows: Tensor) -> Batch:
        views = self.views[rows.repeat_interleave(self.parameterisation.views)]
        with torch.no_grad():
            return Batch(self.parameterisation.decode(self.values[rows]), views)

    def enter_stage(self) -> float:
        """Begin the next stage when it is time, and return how much of the present one is done."""
        position = self.share_done() * self.method.stages
        stage = min(int(position), self.method.stages - 1)
        if stage != self.stage:
            self.stage = stage
            self.optimiser.state.clear()  # momentum would move the images that are done
            self.networks.renew(len(self.losses))
        return position - stage

    def iterate(self, classes_per_step: int) -> None:
        """Take one step of the images, then train the networks that the method trains."""
        share, iteration = self.enter_stage(), len(self.losses)
        along = self.method.stages > 1 and self.method.networks.source == "trained_along"
        network = self.networks.at(iteration, self.earlier if along else self.synthetic)
        rate = self.method.learning_rate
        if self.method.decay == "cosine":
            rate *= 0.5 * (1 + math.cos(math.pi * min(0.999, share)))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        gradient = torch.zeros_like(self.values)
        total = 0.0
        for part in self._parts_of(self.stage, classes_per_step):
            loss, own = self._gradient(network, part)
            if part.stored is None:
                gradient = own
            else:
                gradient[part.stored] = own
            total += loss
        self.values.grad = gradient
        self.optimiser.step()
        with torch.no_grad():
            self.parameterisation.project(self.values)
        self.losses.append(total)
        self.networks.after(iteration, self.synthetic)

    def _parts_of(self, stage: int, classes_per_step: int) -> list[_Part]:
        """Return the classes, a few at a time; looked for once, as a GPU would be waited for."""
        key = stage, classes_per_step
        if key not in self._parts:
            self._parts[key] = [
                self._part(stage, classes)
                for classes in self.labels.unique().split(classes_per_step)
            ]
        return self._parts[key]

    def _part(self, stage: int, classes: Tensor) -> _Part:
        rows = torch.isin(self.labels, classes) & (self.stages == stage)
        views = self.views[rows.repeat_interleave(self.parameterisation.views)]
        stored = None if bool(rows.all()) else torch.nonzero(rows)[:, 0]
        return _Part(classes.cpu(), classes, stored, views)

    def _gradient(self, network: Classifier, part: _Part) -> tuple[float, Tensor]:
        """Return the loss of a few classes and its gradient in what is stored of them."""
        method = self.method
        moving = self.values.detach()
        moving = (moving if part.stored is None else moving[part.stored]).requires_grad_()
        real, synthetic = self._sides(network, part, self.parameterisation.decode(moving))
        num_classes = self.around.num_classes
        values: list[tuple[str, Tensor]] = []
        with shared_feature_maps(network, only=real.images):
            terms = [("the objective", 1.0, method.objective)]
            for one in method.constraints:
                share = self.networks.accuracy() if one.by_accuracy else 1.0
                terms.append((one.name, one.weight * share, one.term))
            for name, weight, term in terms:
                value = weight * term(network, real, synthetic, num_classes)
                values.append((name, value))
            total = sum((value for _, value in values), synthetic.images.new_zeros(()))
        gradient = torch.autograd.grad(total, moving)[0]
        *_, loss = read_finite(
            [*values, ("the gradient", gradient.abs().amax()), ("the loss", total)],
            run=method.name, step=len(self.losses), learning_rate=method.learning_rate,
        )  # fmt: skip
        return loss, gradient

    def _sides(self, network: Classifier, part: _Part, images: Tensor) -> tuple[Batch, Batch]:
        """Return real and synthetic images of a few classes, augmented by the same draws."""
        iteration, augmentation = len(self.losses), self.method.augmentation
        real = self._reals(network, part.labels, iteration)
        synthetic = Batch(images, part.views, step=iteration)
        if augmentation is None:
            return real, synthetic
        seed = derive_seed(self.around.seed, "matching", iteration)
        draws = siamese_draws(part.labels, augmentation, seed).moved_to(self.labels.device)
        background = self.around.background
        return (
            augmented(real, part.classes, draws, augmentation, background),
            augmented(synthetic, part.classes, draws, augmentation, background),
        )

    def _reals(self, network: Classifier, classes: Tensor, iteration: int) -> Batch:
        """Return the real images of an iteration."""
        size = self.method.reals_per_class
        if self.representatives is not None:
            return self.representatives.draw(network, classes, size, iteration)
        generator = torch_rng(self.around.seed, "reals", iteration, int(classes[0]))
        return Batch(*self.around.reals.draw(classes, size, generator))

    def report(self, checkpoint: Checkpoint | None, on_progress: OnProgress) -> None:
        """Tell the progress; save when due, and before a `Cancelled` goes up."""
        progress = Progress(
            "refine", len(self.losses), self.num_iterations, metrics={"loss": self.losses[-1]}
        )
        if checkpoint is not None and checkpoint.is_due():
            self.save(checkpoint)
        try:
            on_progress(progress)
        except Cancelled:
            if checkpoint is not None:
                self.save(checkpoint)
            raise

    def save(self, checkpoint: Checkpoint) -> None:
        """Write the state."""
        arrays = {"values": self.values.detach().cpu().numpy()}
        for name, value in self.optimiser.state.get(self.values, {}).items():
            if value is not None:
                arrays[f"optimiser.{name}"] = torch.as_tensor(value).cpu().numpy()
        arrays |= self.networks.state()
        if self.representatives is not None:
            arrays |= self.representatives.state()
        checkpoint.save(arrays, self._facts())

    def _facts(self) -> dict[str, Any]:
        return {"losses": self.losses, "seconds": self.seconds(), "stage": self.stage}

    def resume(self, checkpoint: Checkpoint | None) -> None:
        """Take up the state of a checkpoint, if there is one."""
        saved = checkpoint.load() if checkpoint is not None else None
        if saved is None:
            return
        arrays, facts = saved
        with torch.no_grad():
            self.values.copy_(torch.from_numpy(arrays["values"]))
        prefix = "optimiser."
        state = {
            name.removeprefix(prefix): torch.from_numpy(np.array(value))
            for name, value in arrays.items()
            if name.startswith(prefix)
        }
        if state:
            moved = {k: v if k == "step" else v.to(self.values) for k, v in state.items()}
            self.optimiser.state[self.values] = moved
        self.networks.load(arrays)
        if self.representatives is not None:
            self.representatives.load(arrays)
        self.losses, self._spent = list(facts["losses"]), facts["seconds"]
        self.stage = facts.get("stage", 0)
