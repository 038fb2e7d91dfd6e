"""The proxy: a classifier of the real images that scores candidates and lends its features.

It is trained with the group-robust objective over clusters of real samples inside each class.
Clusters are formed on pixels: they exist before any network does. Shapes: N images, D features.
"""

from collections.abc import Callable
from dataclasses import dataclass

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
from robust.clusters import merge_small
from robust.config import ProxyConfig
from robust.objective import group_robust_loss


@dataclass(frozen=True, slots=True)
class Proxy:
    """A trained proxy and what it is worth."""

    network: Classifier
    validation_accuracy: float
    """Share of the validation split that it labels rightly, in [0, 1]."""
    is_sound: bool
    """Whether that is above the accuracy floor; a proxy that is not must select nothing."""


def robust_objective(
    labels: Tensor, cluster_ids: Tensor, *, num_classes: int, config: ProxyConfig
) -> Objective:
    """Return the group-robust objective over a batch of the samples with these clusters."""

    def objective(logits: Tensor, indices: Tensor) -> Tensor:
        losses = F.cross_entropy(logits, labels[indices], reduction="none")
        merged = merge_small(
            cluster_ids[indices],
            clusters_per_class=config.num_clusters,
            num_classes=num_classes,
            min_size=config.min_cluster_size,
        )
        return group_robust_loss(
            losses,
            merged,
            num_classes=num_classes,
            clusters_per_class=config.num_clusters,
            tail_fraction=config.tail_fraction,
        )

    return objective


def train_proxy(
    images: Images,
    labels: Tensor,
    cluster_ids: np.ndarray,
    validation: tuple[Images, Tensor],
    *,
    num_classes: int,
    config: ProxyConfig,
    augmentation: str,
    seed: int,
    background: Tensor | float = 0.0,
    on_step: Callable[[int], None] | None = None,
) -> Proxy:
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
        robust_objective(
            labels,
            torch.from_numpy(cluster_ids).to(images.device),
            num_classes=num_classes,
            config=config,
        )
        if config.robust
        else cross_entropy_objective(labels)
    )
    train_classifier(
        network, images, objective, recipe, seed=seed, background=background, on_step=on_step
    )
    reached = accuracy(network, *validation)
    return Proxy(network, reached, reached >= min(0.99, config.accuracy_floor / num_classes))
