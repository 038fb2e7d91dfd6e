"""Refinement as a job does it: a few attempts, and the whole set that scores best is kept.

The score of a set is the group-robust loss, on the validation split, of students trained on it
(`robust.scoring.set_score`). The start takes part: a refinement that does not help is thrown away.
The same code refines the generated start and the real one.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from distillery.bundle.formation import decode_pictures
from distillery.checkpoint import Checkpoint
from distillery.errors import ConfigError
from distillery.evaluation.pool import Figures, Trial, run_trials
from distillery.evaluation.training import augmentation_of, predict_logits
from distillery.models.classifiers import Classifier
from distillery.models.codec import Codec, PixelCodec
from distillery.progress import OnProgress, Progress, ignore_progress
from distillery.seeds import derive_seed, numpy_rng
from generator.config import DistillConfig
from generator.matching import constraints_of, matched
from generator.stages.common import Reals, fit_classifier, num_workers, rows_to_cluster
from generator.starts import JUDGES
from robust.clusters import cluster_within_classes
from robust.matching_types import Parameterisation
from robust.parameters import MultiFormation, Pixels, codec_latents
from robust.proxy import train_proxy
from robust.refine import RealImages, refine
from robust.scoring import Gain, score_gain, set_score

MakeProxy = Callable[[int], Classifier]
"""Number of a proxy -> the trained network."""
ProxyOf = Callable[[int, int], Classifier]
"""(attempt, number of a proxy in it) -> the trained network."""


@dataclass(frozen=True, slots=True)
class Refined:
    """The set that was kept, and how it was chosen."""

    images: np.ndarray
    """Raw uint8 as stored, (P, C, H, W)."""
    labels: np.ndarray
    """Their classes, (P,)."""
    losses: list[float]
    """Matching objective at each step of the attempt that was kept."""
    scores: list[float]
    """Score of the start, then of each attempt; lower is better."""
    kept: int
    """Number of the attempt that was kept; 0 is the start."""
    validation_losses: np.ndarray
    """Cross-entropy of each validation image by each student of the kept set, float32 (S, N)."""


def best_of(scores: Sequence[float]) -> int:
    """Return the number of the lowest score; the first of equals, or where none is finite."""
    usable = [score if math.isfinite(score) else math.inf for score in scores]
    return usable.index(min(usable))


def parameterisation_of(
    reals: Reals, config: DistillConfig, codec: Codec | None
) -> Parameterisation:
    """Return what refinement moves, as a job names it.

    Raises:
        ConfigError: If latents are asked for and the base has no autoencoder.
    """
    normalisation, refine = reals.normalisation, config.refine
    if refine.parameterisation == "multi_formation":
        return MultiFormation(normalisation.clamp, refine.formation_factor)
    if refine.parameterisation == "latent":
        if codec is None or isinstance(codec, PixelCodec):
            raise ConfigError(
                "refine.parameterisation latent needs a base with an autoencoder: name a latent "
                "--base, or leave it at pixels"
            )
        return codec_latents(codec, normalisation)
    return Pixels(normalisation.clamp)


def pictures_of(images: np.ndarray, reals: Reals, factor: int) -> np.ndarray:
    """Return what students see of stored raw images: the pictures that packed ones hold."""
    return decode_pictures(images, factor, reals.normalisation.mean)


def refine_images(
    images: np.ndarray, labels: np.ndarray, reals: Reals, config: DistillConfig, *,
    scorer: "SetScorer", proxy_of: ProxyOf, seed: int,
    checkpoint: Callable[[int], Checkpoint | None], on_progress: OnProgress,
    codec: Codec | None = None,
) -> Refined:  # fmt: skip
    """Return the best of the start and `config.refine.num_attempts` refinements of it.

    Args:
        images: Raw images to start from, (N, C, H, W); of packed images one for each picture.
        labels: Their classes, (N,).
        reals: The prepared dataset.
        config: The job's.
        scorer: Of whole sets, for this config; one serves several starts.
        proxy_of: The proxies, which published methods do without.
        seed: Of real batches and augmentation, and of the networks of a published method.
        checkpoint: Number of an attempt -> where its state is kept, or None.
        on_progress: Told of each step; may raise `Cancelled`.
        codec: The base's autoencoder, where latents move.
    """
    moved = parameterisation_of(reals, config, codec)
    stored, labels = _stored(images, reals, config, moved), labels[:: moved.views]
    steps, total = config.refine.num_steps, config.refine.num_steps * config.refine.num_attempts

    def judged(images: np.ndarray, done: int) -> Tensor:
        def tell(progress: Progress) -> None:
            on_progress(Progress("refine", done, total, progress.message))

        return scorer.losses(images, labels, on_progress=tell)

    sets, validated = [stored], [judged(stored, 0)]
    curves: list[list[float]] = [[]]
    for attempt in range(1, config.refine.num_attempts + 1):
        done = (attempt - 1) * steps

        def tell(progress: Progress, done: int = done) -> None:
            step = done + progress.step
            on_progress(Progress("refine", step, total, progress.message, progress.metrics))

        attempt_seed = derive_seed(seed, "attempt", attempt)
        state = checkpoint(attempt)
        if config.refine.objective != "clusters":
            refined, losses = matched(
                images, labels, reals, config, moved,
                seed=attempt_seed, checkpoint=state, on_progress=tell,
            )  # fmt: skip
        else:
            refined, losses = _attempt(
                images, labels, reals, partial(proxy_of, attempt), config, moved,
                seed=attempt_seed, checkpoint=state, on_progress=tell,
            )  # fmt: skip
        sets.append(refined)
        curves.append(losses)
        validated.append(judged(refined, attempt * steps))
    scores = [scorer.score(losses) for losses in validated]
    kept = best_of(scores)
    return Refined(sets[kept], labels, curves[kept], scores, kept, validated[kept].numpy())


def _stored(
    images: np.ndarray, reals: Reals, config: DistillConfig, moved: Parameterisation
) -> np.ndarray:
    """Return the start as it would be stored: packed where images are packed, else as it is."""
    if config.refine.factor == 1:
        return images
    packed = moved.encode(reals.normalised(images)[:])
    return reals.normalisation.to_raw(packed).cpu().numpy()


class SetScorer:
    """Scores whole sets by students of them, on the validation split; lower is better."""

    def __init__(self, reals: Reals, config: DistillConfig) -> None:
        """Cluster the validation images."""
        self._reals, self._config = reals, config
        self._images, self._truth = reals.split("validation")
        groups = cluster_within_classes(
            rows_to_cluster(self._images),
            self._truth.cpu().numpy(),
            clusters_per_class=config.proxy.num_clusters,
            num_classes=reals.num_classes,
            seed=derive_seed(config.seed, "validation-clusters"),
        )
        self._clusters = torch.from_numpy(groups)
        self._how: dict[str, Any] = {"num_classes": reals.num_classes, "config": config.proxy}

    def losses(
        self, images: np.ndarray, labels: np.ndarray, numbers: Sequence[int] | None = None, *,
        on_progress: OnProgress = ignore_progress,
    ) -> Tensor:  # fmt: skip
        """Return the cross-entropy of each validation image by each student, (S, N) on the CPU.

        Args:
            images: A whole set as stored, raw (P, C, H, W).
            labels: Their classes, (P,).
            numbers: Which students, each with a seed of its own; None: those of a score.
            on_progress: Told of the students' steps in words; may raise `Cancelled`.
        """
        numbers = range(self._config.refine.num_students) if numbers is None else numbers
        reals, config = self._reals, self._config
        images = pictures_of(images, reals, config.refine.factor)
        targets = torch.from_numpy(labels).to(reals.device)
        targets = targets.repeat_interleave(config.refine.pictures_per_image)

        recipe = config.evaluate.student

        def train(number: int, on_step: Callable[[int], None]) -> Figures:
            network = fit_classifier(
                reals, reals.normalised(images), targets, recipe,
                seed=derive_seed(config.seed, "set-score", number), on_step=on_step,
            )  # fmt: skip
            over = recipe.num_steps
            logits = predict_logits(network, self._images, on_batch=lambda _: on_step(over))
            return {"losses": F.cross_entropy(logits, self._truth, reduction="none").cpu()}

        def tell(progress: Progress) -> None:
            share = f"judged by students, {100 * progress.step // progress.total} %"
            on_progress(replace(progress, message=share))

        trials = [
            Trial(str(number), recipe.num_steps, "", partial(train, number)) for number in numbers
        ]
        found = run_trials(
            trials, store=None, num_workers=num_workers(config), phase="refine", on_progress=tell
        )
        return torch.stack([figures["losses"] for figures in found.values()])

    def score(self, losses: Tensor) -> float:
        """Return the mean group-robust loss over the students of a set."""
        return float(np.mean([set_score(own, self._clusters, **self._how) for own in losses]))

    def gain(
        self, one: Refined, other: Refined, *, on_progress: OnProgress = ignore_progress
    ) -> Gain:
        """Return by how much the other set's score is lower, and how sure that is.

        Each set gets further students, so that there are `JUDGES` of each; `on_progress` is told
        of their steps in words.
        """
        first, second = (self._judged(refined, on_progress) for refined in (one, other))
        seed = derive_seed(self._config.seed, "set-gain")
        return score_gain(first, second, self._truth.cpu(), self._clusters, **self._how, seed=seed)

    def _judged(self, refined: Refined, on_progress: OnProgress) -> Tensor:
        """Return the losses of a kept set by all its students, (S, N)."""
        known = torch.from_numpy(refined.validation_losses)
        more = range(len(known), JUDGES)
        if not more:
            return known
        added = self.losses(refined.images, refined.labels, more, on_progress=on_progress)
        return torch.cat([known, added])


def _attempt(
    images: np.ndarray, labels: np.ndarray, reals: Reals, make_proxy: MakeProxy,
    config: DistillConfig, moved: Parameterisation, *, seed: int, checkpoint: Checkpoint | None,
    on_progress: OnProgress,
) -> tuple[np.ndarray, list[float]]:  # fmt: skip
    """Return refined raw images and the objective at each step."""
    train_images, train_labels = reals.split("train")

    def project(values: torch.Tensor) -> torch.Tensor:
        copy = values.clone()
        moved.project(copy)
        return copy

    result = refine(
        moved.encode(reals.normalised(images)[:]),
        torch.from_numpy(labels).to(reals.device),
        RealImages(train_images, train_labels),
        make_proxy,
        config.refine,
        decode=moved.decode,
        project=project,
        views=moved.views,
        augmentation=augmentation_of(config.evaluate.student),
        num_classes=reals.num_classes,
        seed=seed,
        background=reals.normalisation.background(),
        constraints=constraints_of(reals, config, seed=seed, on_progress=on_progress),
        checkpoint=checkpoint,
        on_progress=on_progress,
    )
    images = reals.normalisation.to_raw(moved.store(result.parameters)).cpu().numpy()
    return images, result.losses


def proxy_ages(config: DistillConfig, attempt: int) -> list[int]:
    """Return the training steps of each proxy of an attempt; none where methods train their own.

    A student passes through all ages, so images are matched at all of them; in an order drawn for
    the attempt, which leaves none of them to the last steps.
    """
    if not config.refine.enabled or config.refine.objective != "clusters":
        return []
    ages = config.refine.proxy_ages
    order = numpy_rng(config.seed, "proxy-ages", attempt).permutation(len(ages))
    return [ages[place] for place in order]


def train_number(
    reals: Reals, clusters: np.ndarray, config: DistillConfig, attempt: int, number: int, *,
    on_step: Callable[[int], None] | None = None,
) -> Classifier:  # fmt: skip
    """Return a proxy of refinement, whichever start it is for: it saw real images only.

    Args:
        reals: The prepared dataset.
        clusters: Cluster of each training image inside its class.
        config: The job's.
        attempt: From 1 on.
        number: Of the proxy in its attempt, from 0 on.
        on_step: Called with the number of steps done; may raise `Cancelled`.
    """
    images, labels = reals.split("train")
    robust = config.proxy.robust and config.refine.robust
    steps = proxy_ages(config, attempt)[number]
    recipe = replace(config.proxy, num_steps=steps, robust=robust)
    proxy = train_proxy(
        images, labels, clusters, (images[:1], labels[:1]),
        num_classes=reals.num_classes, config=recipe,
        augmentation=config.evaluate.student.augmentation,
        seed=derive_seed(config.seed, "refine-proxy", attempt, number),
        background=reals.normalisation.background(), on_step=on_step,
    )  # fmt: skip
    return proxy.network.requires_grad_(False)
