"""Clusters of real samples inside each class, the groups that CVaR looks after.

A global cluster id is `label * clusters_per_class + local id`, so that the class of a cluster is
known from its number. Source: Vahidian et al. (2024), Algorithm 1, clusters formed per class.
Shapes: N samples, D features, K classes, J clusters per class, S centres.
"""

import numpy as np
import torch
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch import Tensor

from distillery.seeds import derive_seed


def kmeans_labels(features: np.ndarray, num_clusters: int, *, seed: int) -> np.ndarray:
    """Return the k-means cluster of each row of (N, D), int64 in [0, num_clusters).

    One thread: scikit-learn's threads add up in any order, and equal bytes are promised.
    """
    kmeans = KMeans(num_clusters, n_init=1, random_state=seed % 2**32)
    with threadpool_limits(limits=1):
        return kmeans.fit_predict(features.astype(np.float32)).astype(np.int64)


def cluster_within_classes(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    clusters_per_class: int,
    num_classes: int,
    seed: int,
) -> np.ndarray:
    """Return the global cluster id of each sample, by k-means inside its class.

    A class with fewer than two samples per cluster gets fewer clusters; its other ids stay empty.

    Args:
        features: (N, D).
        labels: int64 (N,) in [0, num_classes).
        clusters_per_class: J.
        num_classes: K.
        seed: Of k-means.
    """
    cluster_ids = np.zeros(len(labels), np.int64)
    for label in range(num_classes):
        members = np.flatnonzero(labels == label)
        count = min(clusters_per_class, len(members) // 2)
        local = np.zeros(len(members), np.int64)
        if count > 1:
            local = kmeans_labels(features[members], count, seed=derive_seed(seed, "kmeans", label))
        cluster_ids[members] = label * clusters_per_class + local
    return cluster_ids


def assign_to_centres(
    features: Tensor, labels: Tensor, centres: Tensor, centre_labels: Tensor
) -> Tensor:
    """Return the index of the nearest centre of the sample's own class, int64 (N,).

    Args:
        features: (N, D).
        labels: (N,).
        centres: (S, D): features of synthetic samples.
        centre_labels: (S,); every label that occurs in `labels` must occur here.
    """
    distances = torch.cdist(features, centres)  # (N, S)
    other_class = labels[:, None] != centre_labels[None, :]
    return distances.masked_fill(other_class, torch.inf).argmin(1)


def merge_small(
    cluster_ids: Tensor, *, clusters_per_class: int, num_classes: int, min_size: int
) -> Tensor:
    """Return ids in which the clusters of a batch below `min_size` join their class's largest one.

    A CVaR over two or three samples is the loss of the worst image; a max over many such clusters
    destroyed the proxy in the prototype (98.1 -> 92.3 %). Empty clusters stay empty.
    """
    num_clusters = num_classes * clusters_per_class
    sizes = torch.bincount(cluster_ids, minlength=num_clusters)
    largest = sizes.reshape(num_classes, clusters_per_class).argmax(1)
    largest = largest + torch.arange(num_classes, device=sizes.device) * clusters_per_class
    target = torch.arange(num_clusters, device=sizes.device)
    target = torch.where(sizes < min_size, largest.repeat_interleave(clusters_per_class), target)
    return target[cluster_ids]
