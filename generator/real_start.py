"""The real start of refinement: k-medoids of real images in the proxy's features.

The same choice as the control `k_medoids`; where images are packed, one for each picture.
Shapes: N real images, D features, M chosen ones.
"""

from collections.abc import Callable

import numpy as np
from torch import Tensor

from distillery.data.dataset import Dataset
from distillery.models.classifiers import Classifier
from distillery.seeds import numpy_rng
from generator.config import DistillConfig
from generator.stages.common import Reals
from generator.stages.score import Candidates, num_chosen, scores_of, unit_features
from robust.selection import k_medoids

NUM_RIVALS = 2000
"""Images of a class that medoids are looked for among: distances of all pairs fit in memory."""


def per_class(labels: np.ndarray, choose: Callable[[np.ndarray, int], np.ndarray]) -> np.ndarray:
    """Return the indices that `choose(members, label)` picks of each class."""
    count = int(labels.max()) + 1
    return np.concatenate([choose(np.flatnonzero(labels == c), c) for c in range(count)])


def medoids(labels: np.ndarray, features: Tensor, count: int, seed: int) -> np.ndarray:
    """Return the indices of `count` medoids of each class, (M,), class by class.

    Args:
        labels: Classes of the real images, (N,).
        features: Of length one, (N, D).
        count: In each class; not more than the smallest has.
        seed: Of the job.
    """

    def choose(members: np.ndarray, label: int) -> np.ndarray:
        rng = numpy_rng(seed, "k-medoids", label)
        members = rng.permutation(members)[: max(NUM_RIVALS, count)]
        return members[k_medoids(features[members], count, rng)]

    return per_class(labels, choose)


def has_enough(dataset: Dataset, config: DistillConfig) -> bool:
    """Say whether every class has a real image for each picture of the result."""
    return int(np.bincount(dataset.split("train")[1]).min()) >= num_chosen(config)


def real_start(
    reals: Reals, network: Classifier, clusters: np.ndarray, config: DistillConfig
) -> dict[str, np.ndarray]:
    """Return the medoids as stage score tells of its choice: images, labels and what they are.

    Args:
        reals: The prepared dataset.
        network: The proxy.
        clusters: Cluster of each training image inside its class, (N,).
        config: The job's.
    """
    images, labels = reals.dataset.split("train")
    features = unit_features(network, reals.split("train")[0]).clone()
    index = medoids(labels, features, num_chosen(config), config.seed)
    chosen = Candidates(images[index], labels[index], np.full(len(index), -1, np.int64))
    return {
        "images": chosen.images,
        "labels": chosen.labels,
        "seeds": chosen.seeds,
        "scores": scores_of(reals, network, chosen),
        "cluster_ids": clusters[index].astype(np.int32),
    }
