"""The proxy: a classifier of the real images that scores candidates and lends its features.

It is trained with the group-robust objective over clusters of real samples inside each class.
Clusters are formed on pixels: they exist before any network does. Shapes: N images, D features.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from distillery.data.normalise import Images
from distillery.evaluation.config import StudentConfig
from distillery.evaluation.training import (
    Objective,
    accuracy,
    cross_entropy_objective,
    train_classifier,
)
from distillery.models.classifiers import Classifier, build_classifier
from distillery.seeds import derive_seed
from robust.config import ProxyConfig
from robust.moving_clusters import choose_centres, cluster_around
from robust.objective import GroupRobust


@dataclass(frozen=True, slots=True)
class Proxy:
    """A trained proxy and what it is worth."""

    network: Classifier
    validation_accuracy: float
    """Share of the validation split that it labels rightly, in [0, 1]."""
    is_sound: bool
    """Whether that is above the accuracy floor; a proxy that is not must select nothing."""


def group_objective(
    labels: Tensor,
    cluster_ids: Tensor,
    *,
    num_classes: int,
    clusters_per_class: int,
    robust: GroupRobust,
) -> Objective:
    """Return the group-robust objective over fixed clusters of the samples, for one training.

    Args:
        labels: Classes of all samples, (N,).
        cluster_ids: Global cluster ids of all samples, (N,) in [0, K * J).
        num_classes: K; 1 for clusters that mix the classes.
        clusters_per_class: J.
        robust: Settings of the objective.
    """
    steps = count()
    running = robust.start(num_classes * clusters_per_class, labels)

    def objective(logits: Tensor, indices: Tensor) -> Tensor:
        if next(steps) % robust.every:
            return F.cross_entropy(logits, labels[indices])
        losses = F.cross_entropy(logits, labels[indices], reduction="none")
        return robust(
            losses, cluster_ids[indices],
            num_classes=num_classes, clusters_per_class=clusters_per_class, running=running,
        )  # fmt: skip

    return objective


def moving_objective(
    network: Classifier,
    labels: Tensor,
    synthetic: tuple[Tensor, Tensor],
    *,
    num_classes: int,
    clusters_per_class: int,
    robust: GroupRobust,
    generator: torch.Generator,
) -> Objective:
    """Return the group-robust objective over clusters around synthetic samples, for one training.

    Clusters are formed in the features of `network` as it is at each step, which are those that
    its last forward pass handed to its head (Vahidian et al. 2024, Algorithm 1).

    Args:
        network: The network in training.
        labels: Classes of all real samples, (N,).
        synthetic: Present synthetic images, normalised (S, C, H, W), and their classes (S,).
        num_classes: K.
        clusters_per_class: J; more synthetic images than that are drawn from, once.
        robust: Settings of the objective.
        generator: Of that draw.
    """
    images, classes = synthetic
    running = robust.start(num_classes * clusters_per_class, labels)
    chosen = choose_centres(classes, clusters_per_class, generator)
    seen: dict[str, Tensor] = {}
    network.head.register_forward_pre_hook(
        lambda _, inputs: seen.update(features=inputs[0].detach())
    )
    steps = count()

    def objective(logits: Tensor, indices: Tensor) -> Tensor:
        own, features = labels[indices], seen.pop("features")
        if next(steps) % robust.every:
            return F.cross_entropy(logits, own)
        with torch.no_grad():
            centres = network.features(images[chosen])
        ids = cluster_around(
            features, own, centres, classes[chosen],
            clusters_per_class=clusters_per_class, min_size=robust.min_cluster_size,
        )  # fmt: skip
        return robust(
            F.cross_entropy(logits, own, reduction="none"), ids,
            num_classes=num_classes, clusters_per_class=clusters_per_class, running=running,
        )  # fmt: skip

    return objective


def train_proxy(
    images: Images, labels: Tensor, cluster_ids: np.ndarray, validation: tuple[Images, Tensor], *,
    num_classes: int, config: ProxyConfig, augmentation: str, seed: int,
    background: Tensor | float = 0.0, on_step: Callable[[int], None] | None = None,
) -> Proxy:  # fmt: skip
    """Train a proxy on normalised images (N, C, H, W) and judge it on the validation split."""
    network = build_classifier(
        config.network,
        channels=images.shape[1],
        image_size=images.shape[-1],
        num_classes=num_classes,
        seed=derive_seed(seed, "proxy-init"),
    ).to(images.device)
    recipe = StudentConfig(
        network=config.network,
        num_steps=config.num_steps,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        augmentation=augmentation,
    )
    objective = (
        group_objective(
            labels,
            torch.from_numpy(cluster_ids).to(images.device),
            num_classes=num_classes,
            clusters_per_class=config.num_clusters,
            robust=GroupRobust(
                tail_fraction=config.tail_fraction, min_cluster_size=config.min_cluster_size
            ),
        )
        if config.robust
        else cross_entropy_objective(labels)
    )
    train_classifier(
        network, images, objective, recipe, seed=seed, background=background, on_step=on_step
    )
    reached = accuracy(network, *validation)
    return Proxy(network, reached, reached >= min(0.99, config.accuracy_floor / num_classes))
