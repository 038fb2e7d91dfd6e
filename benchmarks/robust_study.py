"""One run of the robust study: a set is refined on proxies of one objective and then judged.

Runs of one seed are paired: start, real batches, augmentation, the proxies' first weights and
batches, and the students' seeds are the same whatever the objective. Shapes: N images, K classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from distillery.data.config import DataConfig
from distillery.data.dataset import Dataset
from distillery.data.normalise import NormalisedImages, measure_normalisation
from distillery.data.prepare import FACTS_FILE, prepare_dataset
from distillery.data.sources.resolve import open_source
from distillery.evaluation.config import StudentConfig
from distillery.evaluation.harness import ImageSet, TestBench, build_bench, judge, measure
from distillery.evaluation.training import (
    Objective,
    augmentation_of,
    cross_entropy_objective,
    train_classifier,
)
from distillery.models.classifiers import Classifier, build_classifier
from distillery.progress import ignore_progress
from distillery.seeds import derive_seed, numpy_rng, torch_rng
from robust.clusters import cluster_within_classes
from robust.config import RefineConfig
from robust.objective import GroupRobust
from robust.proxy import group_objective, moving_objective
from robust.refine import RealImages, refine

Groups = Literal["none", "class", "pooled", "moving"]
Pair = tuple[np.ndarray, np.ndarray]
"""Raw images (N, C, H, W) and labels (N,)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """How proxies are trained; everything else is the regime's."""

    name: str
    groups: Groups = "none"
    """`none`: plain cross-entropy. `class`: k-means on pixels inside each class. `pooled`: k-means
    on pixels of all classes together. `moving`: around the present synthetic images, in class."""
    num_clusters: int = 1
    """Of each class; of all for `pooled`."""
    robust: GroupRobust = GroupRobust()
    proxy_steps: int | None = None
    """Training steps of a proxy in place of the regime's: for rows to compare with, not to win."""


PLAIN = Setting(name="plain")


@dataclass(frozen=True, kw_only=True, slots=True)
class Regime:
    """What both sides of a comparison share."""

    dataset: str
    size: int
    channels: int
    train_per_class: int
    validation_fraction: float
    images_per_class: int
    network: str
    proxy: StudentConfig
    """Recipe of a proxy; only its objective differs between settings."""
    refine: RefineConfig
    student: StudentConfig
    num_students: int = 3
    num_groups: int = 10
    num_folds: int = 0
    """Where the validation split is too small: training and validation images are cut into so many
    folds, and seed s is judged on fold s modulo their number. The test is as ever."""
    test_sets: int = 1
    """Refined sets of each test seed, whose mean is the seed's figure."""


@dataclass(frozen=True, slots=True)
class Data:
    """A dataset as a run needs it, and the benches that judge."""

    reals: RealImages
    num_classes: int
    benches: Mapping[str, TestBench]
    clusters: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    """Fixed clusters of the training images, filled as they are asked for."""


def load_data(regime: Regime, source: str, folder: Path, *, fold: int | None = None) -> Data:
    """Return the data of a regime: `train_per_class` training images a class, drawn with seed 0.

    Args:
        regime: What to load.
        source: The dataset, as `DataConfig` names it.
        folder: Where it is decoded, once.
        fold: Held out for validation in place of the validation split.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / FACTS_FILE).exists():
        config = DataConfig(dataset=source, validation_fraction=regime.validation_fraction)
        with open_source(config) as opened:
            prepare_dataset(
                opened, config=config, image_size=regime.size, channels=regime.channels,
                folder=folder,
            )  # fmt: skip
    dataset = Dataset.load(folder)
    num_classes = len(dataset.class_names)
    splits = {name: dataset.split(name) for name in ("train", "validation", "test")}
    if fold is not None:
        splits["train"], splits["validation"] = _cut(splits, fold, regime.num_folds)
    images, labels = splits["train"]
    rng = numpy_rng(0, "study-train")
    members = [rng.permutation(np.flatnonzero(labels == c)) for c in range(num_classes)]
    picks = np.sort(np.concatenate([own[: regime.train_per_class] for own in members]))
    raw, targets = images[picks], torch.from_numpy(labels[picks])
    normalisation = measure_normalisation(raw)
    benches = {
        split: build_bench(
            *splits[split], normalisation=normalisation, num_classes=num_classes,
            num_groups=regime.num_groups, shifts=False,
        )
        for split in ("validation", "test")
    }  # fmt: skip
    reals = RealImages(NormalisedImages(torch.from_numpy(raw), normalisation), targets)
    return Data(reals, num_classes, benches)


def _cut(splits: dict[str, Pair], fold: int, num_folds: int) -> tuple[Pair, Pair]:
    """Return training and validation images with one fold of both held out."""
    parts = splits["train"], splits["validation"]
    images, labels = (np.concatenate([part[which] for part in parts]) for which in (0, 1))
    held = np.zeros(len(labels), bool)
    held[numpy_rng(0, "study-folds").permutation(len(labels))[fold::num_folds]] = True
    return (images[~held], labels[~held]), (images[held], labels[held])


def run_once(data: Data, regime: Regime, setting: Setting, seed: int, split: str) -> dict[str, Any]:
    """Return accuracy and cluster-min, on a split, of the students of one refined set."""
    labels, start = _start(data, regime, seed)
    present = {"images": start}

    def watch(values: Tensor) -> Tensor:
        """Clamp as refinement asks, and remember the images for clusters that move with them."""
        present["images"] = normalisation.clamp(values)
        return present["images"]

    def make_proxy(number: int) -> Classifier:
        proxy_seed = derive_seed(seed, "proxy", number)
        synthetic = present["images"].detach().clone(), labels
        return _proxy(data, regime, setting, synthetic, proxy_seed)

    normalisation = data.benches["validation"].normalisation
    result = refine(
        start, labels, data.reals, make_proxy, regime.refine,
        decode=lambda parameters: parameters, project=watch,
        augmentation=augmentation_of(regime.student), num_classes=data.num_classes,
        seed=derive_seed(seed, "refine"), background=normalisation.background(),
        on_progress=ignore_progress,
    )  # fmt: skip
    raw = normalisation.to_raw(result.parameters).numpy()
    return _judged(data, regime, ImageSet(raw, labels.numpy()), seed, split)


def proxy_once(data: Data, regime: Regime, setting: Setting, seed: int) -> dict[str, Any]:
    """Return accuracy and cluster-min of the run's first proxy itself, on validation."""
    labels, start = _start(data, regime, seed)
    network = _proxy(data, regime, setting, (start, labels), derive_seed(seed, "proxy", 0))
    figures = measure(network, data.benches["validation"])
    return {figure: figures[figure] for figure in ("accuracy", "cluster_min")}


def _judged(data: Data, regime: Regime, images: ImageSet, seed: int, split: str) -> dict[str, Any]:
    """Return the mean figures of the students of a set."""
    seeds = [derive_seed(seed, "student", number) for number in range(regime.num_students)]
    runs = [judge(images, data.benches[split], regime.student, seed=one) for one in seeds]
    return {
        figure: float(np.mean([run[figure] for run in runs]))
        for figure in ("accuracy", "cluster_min")
    }


def _start(data: Data, regime: Regime, seed: int) -> tuple[Tensor, Tensor]:
    """Return labels and normalised random real images to start from."""
    labels = data.reals.labels.numpy()
    picks = np.concatenate([
        numpy_rng(seed, "start", label).permutation(np.flatnonzero(labels == label))[
            : regime.images_per_class
        ]
        for label in range(data.num_classes)
    ])  # fmt: skip
    return data.reals.labels[picks], data.reals.images[torch.from_numpy(picks)]


def _proxy(
    data: Data, regime: Regime, setting: Setting, synthetic: tuple[Tensor, Tensor], seed: int
) -> Classifier:
    """Return a proxy trained on the real images by a setting's objective, its weights held."""
    network = build_classifier(
        regime.network, channels=regime.channels, image_size=regime.size,
        num_classes=data.num_classes, seed=derive_seed(seed, "init"),
    )  # fmt: skip
    objective = _objective(data, setting, network, synthetic, seed)
    background = data.benches["validation"].normalisation.background()
    steps = setting.proxy_steps or regime.proxy.num_steps
    recipe = replace(regime.proxy, network=regime.network, num_steps=steps)
    train_classifier(
        network, data.reals.images, objective, recipe, seed=seed, background=background
    )
    return network.requires_grad_(False)


def _objective(
    data: Data, setting: Setting, network: Classifier, synthetic: tuple[Tensor, Tensor], seed: int
) -> Objective:
    """Return what a setting trains proxies by."""
    labels = data.reals.labels
    if setting.groups == "none":
        return cross_entropy_objective(labels)
    if setting.groups == "moving":
        return moving_objective(
            network, labels, synthetic, num_classes=data.num_classes,
            clusters_per_class=setting.num_clusters, robust=setting.robust,
            generator=torch_rng(seed, "centres"),
        )  # fmt: skip
    return group_objective(
        labels, _fixed_clusters(data, setting.groups, setting.num_clusters),
        num_classes=1 if setting.groups == "pooled" else data.num_classes,
        clusters_per_class=setting.num_clusters, robust=setting.robust,
    )  # fmt: skip


def _fixed_clusters(data: Data, groups: str, num_clusters: int) -> Tensor:
    """Return k-means clusters of the training pixels, of each class or of all together."""
    key = groups, num_clusters
    if key not in data.clusters:
        labels = data.reals.labels.numpy()
        pooled = groups == "pooled"
        ids = cluster_within_classes(
            data.reals.images[:].flatten(1).numpy(),
            np.zeros_like(labels) if pooled else labels,
            clusters_per_class=num_clusters,
            num_classes=1 if pooled else data.num_classes,
            seed=derive_seed(0, "study-clusters"),
        )
        data.clusters[key] = torch.from_numpy(ids)
    return data.clusters[key]
