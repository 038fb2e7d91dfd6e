"""The controls: image sets that any result must be held against, built by the same code.

Random real images, herding and k-medoids of real features, class means at one image per class,
plain samples of the base, the choice before refinement, and real images with the same refinement.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from distillery.evaluation.harness import ImageSet
from distillery.models.classifiers import Classifier
from distillery.models.codec import Codec
from distillery.progress import OnProgress
from distillery.seeds import derive_seed, numpy_rng
from generator.config import DistillConfig
from generator.refinement import refine_images
from generator.stages.common import Reals
from generator.stages.score import unit_features
from robust.selection import herding, k_medoids, random_choice

LABELS = {
    "ours": "Distillery",
    "selected": "chosen samples, not refined",
    "fine_tuned": "samples of the fine-tuned base",
    "plain_dit": "plain DiT samples",
    "random_real": "random real images",
    "herding": "herding of real features",
    "k_medoids": "k-medoids of real features",
    "class_mean": "class means",
    "real_refined": "random real images, refined alike",
    "full_data": "the whole train split",
}
"""Names for people, in the order of the report."""


def _per_class(labels: np.ndarray, choose: Callable[[np.ndarray, int], np.ndarray]) -> np.ndarray:
    """Return the indices that `choose(members, label)` picks of each class."""
    count = int(labels.max()) + 1
    return np.concatenate([choose(np.flatnonzero(labels == c), c) for c in range(count)])


def random_real(reals: Reals, config: DistillConfig, draw: int) -> ImageSet:
    """Return random real images of each class; every draw is another set."""
    images, labels = reals.dataset.split("train")

    def choose(members: np.ndarray, label: int) -> np.ndarray:
        rng = numpy_rng(config.seed, "random-real", draw, label)
        return members[random_choice(len(members), config.images_per_class, rng)]

    index = _per_class(labels, choose)
    return ImageSet(images[index], labels[index])


def real_selections(
    reals: Reals, network: Classifier, config: DistillConfig
) -> dict[str, ImageSet]:
    """Return herding and k-medoids choices of real images, and class means at IPC 1."""
    images, labels = reals.dataset.split("train")
    features = unit_features(network, reals.split("train")[0]).clone()
    count, seed = config.images_per_class, config.seed

    def medoids(members: np.ndarray, label: int) -> np.ndarray:
        rng = numpy_rng(seed, "k-medoids", label)
        members = rng.permutation(members)[:2000]  # distances of all pairs fit in memory
        return members[k_medoids(features[members], count, rng)]

    chosen = {
        "herding": _per_class(labels, lambda m, _: m[herding(features[m], count)]),
        "k_medoids": _per_class(labels, medoids),
    }
    sets = {name: ImageSet(images[index], labels[index]) for name, index in chosen.items()}
    if count == 1:
        classes = range(reals.num_classes)
        means = np.stack([images[labels == c].mean(0).round().astype(np.uint8) for c in classes])
        sets["class_mean"] = ImageSet(means, np.arange(reals.num_classes))
    return sets


def refined_control(
    start: ImageSet, reals: Reals, clusters: np.ndarray, config: DistillConfig,
    on_progress: OnProgress, codec: Codec | None = None,
) -> ImageSet:  # fmt: skip
    """Return a set of real images after the same refinement as ours, from the same seed.

    A control has one picture in each stored image: where ours are packed, its pixels are refined.
    """
    if config.refine.factor > 1:
        config = replace(config, refine=replace(config.refine, parameterisation="pixels"))
    refined = refine_images(
        start.images, start.labels, reals, clusters, config,
        seed=derive_seed(config.seed, "refine"), checkpoint=lambda _: None,
        on_progress=on_progress, codec=codec,
    )  # fmt: skip
    return ImageSet(refined.images, start.labels)
