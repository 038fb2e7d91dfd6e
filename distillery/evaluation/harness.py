"""The one place where image sets are compared: same student, same seeds, same test images.

It knows named sets only, ours and the controls alike; where they come from is the caller's affair.
Every figure is the last step's, of one student; a set's row has mean and spread over its seeds.
Shapes: N images, T test images, K classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from distillery.data.corruptions import standard_corruptions
from distillery.data.normalise import Normalisation, NormalisedImages
from distillery.evaluation.config import StudentConfig
from distillery.evaluation.groups import cluster_min, group_accuracies, test_groups
from distillery.evaluation.together import train_classifiers
from distillery.evaluation.training import (
    cross_entropy_objective,
    predict_logits,
    soft_label_objective,
    soft_targets,
    train_classifier,
)
from distillery.models.classifiers import Classifier, build_classifier
from distillery.seeds import derive_seed

SHIFTS = ("noise", "blur", "invert")
"""Corruptions of the test images that a row reports."""


@dataclass(frozen=True, slots=True)
class ImageSet:
    """A training set to be judged."""

    images: np.ndarray
    """Raw uint8, (N, C, H, W)."""
    labels: np.ndarray
    """int64 (N,)."""
    teacher_logits: np.ndarray | None = None
    """Soft labels (N, K); a set that has them is judged by the soft-label protocol."""


@dataclass(frozen=True, slots=True)
class TestBench:
    """The test split, its corrupted versions and its groups, ready for many students."""

    __test__ = False  # not a test, whatever pytest makes of its name

    labels: np.ndarray
    groups: np.ndarray | None
    """Group of each test image; None: nobody asks for `cluster_min`."""
    num_groups: int
    num_classes: int
    normalisation: Normalisation
    views: dict[str, NormalisedImages] = field(repr=False)
    """Normalised test images: `clean` and each of `SHIFTS`."""

    @property
    def num_images(self) -> int:
        """Return how many images a student is tested on, all views together."""
        return sum(len(view) for view in self.views.values())


def build_bench(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    normalisation: Normalisation,
    num_classes: int,
    num_groups: int,
    shifts: bool = True,
    blur_radius: float | None = None,
    device: torch.device | str = "cpu",
) -> TestBench:
    """Return the bench for raw test images (T, C, H, W) and labels (T,); students train there.

    With `num_groups` 0 no groups are formed; `blur_radius` None is one that fits the size.
    """
    raw = {"clean": images}
    if shifts:
        raw |= standard_corruptions(images, blur_radius=blur_radius)
    views = {
        name: NormalisedImages(torch.from_numpy(view).to(device), normalisation)
        for name, view in raw.items()
    }
    groups = test_groups(images, num_groups=num_groups) if num_groups else None
    return TestBench(labels, groups, num_groups, num_classes, normalisation, views)


def judge(
    image_set: ImageSet,
    bench: TestBench,
    config: StudentConfig,
    *,
    seed: int,
    on_step: Callable[[int], None] | None = None,
) -> dict:
    """Train one student on a set and return its figures on the bench, all shares in [0, 1].

    Students may be judged in several threads at once: none reads what another draws. `on_step` is
    called with the number of steps done, of `judging_steps` in all, and may raise `Cancelled`.

    Returns:
        `accuracy`, `cluster_min` (None without enough data), `per_class` (None for a class
        without test images) and `groups`, and the accuracy under each shift.
    """
    device = bench.views["clean"].device
    images = NormalisedImages(torch.from_numpy(image_set.images).to(device), bench.normalisation)
    labels = torch.from_numpy(image_set.labels).to(device)
    network = _new_student(config, bench, seed)
    if image_set.teacher_logits is None:
        objective = cross_entropy_objective(labels)
    else:
        logits = torch.from_numpy(image_set.teacher_logits).to(device)
        objective = soft_label_objective(logits, labels)
    background = bench.normalisation.background()
    train_classifier(
        network, images, objective, config, seed=seed, background=background, on_step=on_step
    )
    return measure(network, bench, on_batch=_tell_tested(config, bench, on_step))


def judging_steps(config: StudentConfig, bench: TestBench) -> int:
    """Return the steps that `judge` reports: those of training, then those of the test.

    A test image counts a third of a training image: it goes forward only.
    """
    return config.num_steps + bench.num_images // (3 * config.batch_size)


def _tell_tested(
    config: StudentConfig, bench: TestBench, on_step: Callable[[int], None] | None, count: int = 1
) -> Callable[[int], None] | None:
    """Return what tells `on_step` how far the test of `count` students is, batch by batch."""
    if on_step is None:
        return None
    steps = judging_steps(config, bench) - config.num_steps
    done = 0

    def tell(batch_size: int) -> None:
        nonlocal done
        done += batch_size
        on_step(config.num_steps + steps * done // (count * bench.num_images))

    return tell


def judge_together(
    image_sets: Sequence[ImageSet],
    bench: TestBench,
    config: StudentConfig,
    *,
    seeds: Sequence[int],
    on_step: Callable[[int], None] | None = None,
) -> list[dict]:
    """Train a student on each set, all at once, and return the figures of each (see `judge`).

    Args:
        image_sets: One for each student, as many images each; the same object where it is shared.
        bench: The test images.
        config: The recipe of all students.
        seeds: Of each student, as `judge` takes it.
        on_step: As `judge` calls it.
    """
    device = bench.views["clean"].device
    whole, rows = pooled(image_sets)
    images = NormalisedImages(torch.from_numpy(whole.images).to(device), bench.normalisation)
    targets = torch.from_numpy(whole.labels).to(device)
    if whole.teacher_logits is not None:
        targets = soft_targets(torch.from_numpy(whole.teacher_logits).to(device), targets)
    networks = train_classifiers(
        [_new_student(config, bench, seed) for seed in seeds], images, targets,
        torch.from_numpy(rows).to(device), config, seeds=seeds,
        background=bench.normalisation.background(), on_step=on_step,
    )  # fmt: skip
    on_batch = _tell_tested(config, bench, on_step, len(networks))
    return [measure(network, bench, on_batch=on_batch) for network in networks]


def pooled(image_sets: Sequence[ImageSet]) -> tuple[ImageSet, np.ndarray]:
    """Return all images, a set that students share once, and the rows of each student (S, N).

    Raises:
        ValueError: If the sets differ in their number of images.
    """
    distinct = list({id(one): one for one in image_sets}.values())
    sizes = sorted({len(one.labels) for one in distinct})
    if len(sizes) > 1:
        raise ValueError(f"sets of one size can be judged together, got {sizes} images")
    logits = [one.teacher_logits for one in distinct if one.teacher_logits is not None]
    assert len(logits) in (0, len(distinct)), "soft and hard labels are never judged together"
    whole = ImageSet(
        np.concatenate([one.images for one in distinct]),
        np.concatenate([one.labels for one in distinct]),
        np.concatenate(logits) if logits else None,
    )
    place = {id(one): number * sizes[0] for number, one in enumerate(distinct)}
    return whole, np.stack([place[id(one)] + np.arange(sizes[0]) for one in image_sets])


def _new_student(config: StudentConfig, bench: TestBench, seed: int) -> Classifier:
    """Return an untrained student of the bench's images, on its device."""
    clean = bench.views["clean"]
    network = build_classifier(
        config.network,
        channels=clean.shape[1],
        image_size=clean.shape[-1],
        num_classes=bench.num_classes,
        seed=derive_seed(seed, "student-init"),
    )
    return network.to(clean.device)


def measure(
    network: torch.nn.Module, bench: TestBench, *, on_batch: Callable[[int], None] | None = None
) -> dict:
    """Return the figures of a trained network on the bench (see `judge`).

    `on_batch` is called after each batch with its number of images; may raise `Cancelled`.
    """
    correct = {
        name: predict_logits(network, view, on_batch=on_batch).argmax(1).cpu().numpy()
        == bench.labels
        for name, view in bench.views.items()
    }
    clean = correct["clean"]
    grouped = {}
    if bench.groups is not None:
        groups = group_accuracies(clean, bench.groups, bench.num_groups)
        grouped = {"cluster_min": cluster_min(groups), "groups": groups}
    of_class = (clean[bench.labels == label] for label in range(bench.num_classes))
    per_class = [float(one.mean()) if len(one) else None for one in of_class]
    shifts = {name: float(correct[name].mean()) for name in SHIFTS if name in correct}
    return {
        "accuracy": float(clean.mean()),
        "per_class": per_class,
        **grouped,
        **shifts,
    }


def spread(values: list[float | None]) -> dict | None:
    """Return `{"mean", "std", "runs"}` of the figures of several seeds; None if one is missing.

    `std` is the sample standard deviation, 0 for one run.
    """
    if any(value is None for value in values):
        return None
    numbers = [float(value) for value in values if value is not None]
    std = float(np.std(numbers, ddof=1)) if len(numbers) > 1 else 0.0
    return {"mean": float(np.mean(numbers)), "std": std, "runs": numbers}


def summarise(runs: list[dict]) -> Mapping:
    """Return one row of the report from the figures of several seeds of one set."""
    row: dict = {
        name: spread([run[name] for run in runs])
        for name in ("accuracy", "best", "cluster_min", *SHIFTS)
        if name in runs[0]
    }
    columns = zip(*(run["per_class"] for run in runs), strict=True)
    row["per_class"] = [(spread(list(column)) or {}).get("mean") for column in columns]
    if "groups" in runs[0]:
        row["groups"] = [
            dict(first, accuracy=(mean or {}).get("mean"))
            for first, mean in (
                (group, spread([run["groups"][index]["accuracy"] for run in runs]))
                for index, group in enumerate(runs[0]["groups"])
            )
        ]
    return row
