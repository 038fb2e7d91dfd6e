"""The controls: image sets that any result must be held against, built by the same code.

Random real images, herding and k-medoids of real features, class means at one image per class,
plain samples of the base, the choice before refinement, and the start that was not kept, refined.
"""

import numpy as np

from distillery.evaluation.harness import ImageSet
from distillery.models.classifiers import Classifier
from distillery.seeds import numpy_rng
from generator.config import DistillConfig
from generator.real_start import medoids, per_class
from generator.stages.common import Reals
from generator.stages.score import unit_features
from generator.starts import REFINED_SUFFIX
from robust.selection import herding, random_choice

LABELS = {
    "ours": "Distillery",
    "selected": "chosen samples, not refined",
    "fine_tuned": "samples of the fine-tuned base",
    "plain_dit": "plain DiT samples",
    "random_real": "random real images",
    "herding": "herding of real features",
    "k_medoids": "k-medoids of real features",
    "class_mean": "class means",
    "generated_refined": f"generated images{REFINED_SUFFIX}",
    "real_refined": f"k-medoids of real images{REFINED_SUFFIX}",
    "full_data": "the whole train split",
}
"""Names for people, in the order of the report."""


def random_real(reals: Reals, config: DistillConfig, draw: int) -> ImageSet:
    """Return random real images of each class; every draw is another set."""
    images, labels = reals.dataset.split("train")

    def choose(members: np.ndarray, label: int) -> np.ndarray:
        rng = numpy_rng(config.seed, "random-real", draw, label)
        return members[random_choice(len(members), config.images_per_class, rng)]

    index = per_class(labels, choose)
    return ImageSet(images[index], labels[index])


def real_selections(
    reals: Reals, network: Classifier, config: DistillConfig
) -> dict[str, ImageSet]:
    """Return herding and k-medoids choices of real images, and class means at IPC 1."""
    images, labels = reals.dataset.split("train")
    features = unit_features(network, reals.split("train")[0]).clone()
    count = config.images_per_class
    chosen = {
        "herding": per_class(labels, lambda m, _: m[herding(features[m], count)]),
        "k_medoids": medoids(labels, features, count, config.seed),
    }
    sets = {name: ImageSet(images[index], labels[index]) for name, index in chosen.items()}
    if count == 1:
        classes = range(reals.num_classes)
        means = np.stack([images[labels == c].mean(0).round().astype(np.uint8) for c in classes])
        sets["class_mean"] = ImageSet(means, np.arange(reals.num_classes))
    return sets
