"""Aside: the clusters of the real images, and the robust proxy that scores and selects by them."""

from pathlib import Path
from typing import Any

import numpy as np

from distillery.progress import Progress
from distillery.seeds import derive_seed
from distillery.tensorfile import read_tensors, write_tensors
from generator.config import DistillConfig, to_dict
from generator.stage import Context, Finished, Stage, StageOutput
from generator.stages.common import (
    Reals,
    machine_settings,
    open_reals,
    rows_to_cluster,
    save_classifier,
)
from robust.clusters import cluster_within_classes
from robust.proxy import Proxy, train_proxy

CLUSTERS, PROXY = "clusters.safetensors", "proxy.safetensors"


def settings(config: DistillConfig) -> dict[str, Any]:
    """Return what proxy and clusters depend on."""
    return {
        "proxy": to_dict(config.proxy),
        "augmentation": config.evaluate.student.augmentation,
        "seed": config.seed,
        **machine_settings(config),
    }


def run(context: Context) -> StageOutput:
    """Cluster the training images and train the proxy."""
    reals = open_reals(context)
    clusters = real_clusters(reals, context.config)
    write_tensors(context.folder / CLUSTERS, {"cluster_ids": clusters})
    proxy = fit_proxy(context, reals, clusters)
    save_classifier(context.folder / PROXY, proxy.network)
    facts = {"accuracy": proxy.validation_accuracy, "is_sound": proxy.is_sound}
    return StageOutput(f"labels {100 * proxy.validation_accuracy:.1f} % of validation", facts)


def real_clusters(reals: Reals, config: DistillConfig) -> np.ndarray:
    """Return the cluster of each training image inside its class, by k-means on pixels."""
    images, labels = reals.split("train")
    return cluster_within_classes(
        rows_to_cluster(images),
        labels.cpu().numpy(),
        clusters_per_class=config.proxy.num_clusters,
        num_classes=reals.num_classes,
        seed=derive_seed(config.seed, "clusters"),
    )


def fit_proxy(context: Context, reals: Reals, clusters: np.ndarray) -> Proxy:
    """Train the proxy on the train split."""
    config = context.config
    images, labels = reals.split("train")
    return train_proxy(
        images,
        labels,
        clusters,
        reals.split("validation"),
        num_classes=reals.num_classes,
        config=config.proxy,
        augmentation=config.evaluate.student.augmentation,
        seed=derive_seed(config.seed, "proxy"),
        background=reals.normalisation.background(),
        on_step=lambda step: context.on_progress(
            Progress("score", step, config.proxy.num_steps, "training the robust proxy")
        ),
    )


def trained_proxy(done: Finished, reals: Reals, config: DistillConfig) -> Proxy:
    """Return the proxy of the finished stage."""
    network = reals.load_classifier(done.folder / PROXY, config.proxy.network)
    facts = done.record["facts"]
    return Proxy(network.requires_grad_(False), facts["accuracy"], facts["is_sound"])


def clusters_in(folder: Path) -> np.ndarray:
    """Return the clusters that a stage's folder holds, (N,)."""
    return read_tensors(folder / CLUSTERS)[0]["cluster_ids"]


STAGE = Stage("proxy", 1, ("prepare",), settings, run)
