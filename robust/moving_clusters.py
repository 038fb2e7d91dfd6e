"""Clusters of real samples around synthetic ones, re-formed as the synthetic set moves.

Source: Vahidian et al. (2024), Algorithm 1, with appendix H: within each class, IPC clusters below
ten images per class, else ten around synthetic images drawn at random.
Shapes: N real samples, S synthetic ones, D features, K classes, J clusters per class.
"""

import torch
from torch import Tensor

MAX_CLUSTERS = 10
"""Published number of clusters of a class from ten images per class on."""


def clusters_per_class(images_per_class: int) -> int:
    """Return the published number of clusters: IPC below ten, else ten."""
    if images_per_class < 1:
        raise ValueError(f"images_per_class must be 1 or more, got {images_per_class}")
    return min(images_per_class, MAX_CLUSTERS)


def choose_centres(labels: Tensor, num_clusters: int, generator: torch.Generator) -> Tensor:
    """Return indices of up to `num_clusters` synthetic samples of each class, in class order.

    Args:
        labels: Classes of the synthetic samples, (S,).
        num_clusters: J; a class with fewer samples has each of them as a centre.
        generator: On the CPU; drawn from anew, the centres are others.
    """
    picks = []
    for label in labels.unique().tolist():
        members = torch.nonzero(labels == label)[:, 0]
        order = torch.randperm(len(members), generator=generator)[:num_clusters]
        picks.append(members[order.to(members.device)])
    return torch.cat(picks)


def cluster_around(
    features: Tensor,
    labels: Tensor,
    centres: Tensor,
    centre_labels: Tensor,
    *,
    clusters_per_class: int,
    min_size: int = 1,
) -> Tensor:
    """Return the global cluster id of each real sample, `label * J + local id`, int64 (N,).

    A sample belongs to the nearest centre of its class, in the features of the present network. A
    centre that gathers fewer than `min_size` samples is dropped and its samples go to the nearest
    of those left; where none would be left, the largest stays.

    Args:
        features: Of the real samples, (N, D).
        labels: Their classes, (N,); each must have a centre.
        centres: Features of the synthetic samples that are centres, (S, D).
        centre_labels: Their classes in ascending order, (S,), at most J of each.
        clusters_per_class: J.
        min_size: Samples of this batch that a cluster needs.

    Raises:
        ValueError: If a class has samples and no centre, or more than J centres.
    """
    local = _rank_in_class(centre_labels)  # (S,)
    if int(local.max()) >= clusters_per_class:
        raise ValueError(f"a class has {int(local.max()) + 1} centres, got J={clusters_per_class}")
    missing = labels[~torch.isin(labels, centre_labels)]
    if len(missing):
        raise ValueError(f"class {int(missing[0])} has real samples and no synthetic centre")
    distances = torch.cdist(features.detach(), centres.detach())  # (N, S)
    distances = distances.masked_fill(labels[:, None] != centre_labels[None, :], torch.inf)
    nearest = distances.argmin(1)
    if min_size > 1:
        sizes = torch.bincount(nearest, minlength=len(centre_labels))
        distances = distances.masked_fill(~_kept(sizes, centre_labels, min_size), torch.inf)
        nearest = distances.argmin(1)
    return labels * clusters_per_class + local[nearest]


def _rank_in_class(centre_labels: Tensor) -> Tensor:
    """Return the number of each centre inside its class; the centres are in class order."""
    places = torch.arange(len(centre_labels), device=centre_labels.device)
    return places - torch.searchsorted(centre_labels.contiguous(), centre_labels)


def _kept(sizes: Tensor, centre_labels: Tensor, min_size: int) -> Tensor:
    """Say which centres stay: large enough, or the first of the largest of their class."""
    _, own_class, counts = centre_labels.unique_consecutive(return_inverse=True, return_counts=True)
    largest = sizes.new_zeros(len(counts)).scatter_reduce(0, own_class, sizes, "amax")
    places = torch.arange(len(sizes), device=sizes.device)
    candidates = torch.where(sizes == largest[own_class], places, len(sizes))
    first = candidates.new_full((len(counts),), len(sizes))
    first = first.scatter_reduce(0, own_class, candidates, "amin")
    return (sizes >= min_size) | (places == first[own_class])
