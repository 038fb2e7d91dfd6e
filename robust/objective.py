"""The group-robust training objective: cross-entropy + mean CVaR + max CVaR over clusters.

Source: Vahidian et al. (2024), Eq. 2, with cross-entropy kept for stability (its section 4). The
max is taken inside each class and averaged over classes, or over all clusters (`max_over`).
Shapes: N samples, K classes, J clusters per class.
"""

from typing import Literal

import torch
from torch import Tensor

from robust.cvar import clustered_cvar


def group_robust_loss(
    losses: Tensor,
    cluster_ids: Tensor,
    *,
    num_classes: int,
    clusters_per_class: int,
    tail_fraction: float,
    mean_weight: float = 1.0,
    max_weight: float = 1.0,
    max_over: Literal["class", "all"] = "class",
) -> Tensor:
    """Return mean loss + `mean_weight` x mean CVaR + `max_weight` x max CVaR of the clusters.

    Args:
        losses: Cross-entropy of each sample, (N,).
        cluster_ids: Global cluster id of each sample, int64 (N,) in [0, K * J).
        num_classes: K.
        clusters_per_class: J.
        tail_fraction: Share of a cluster's samples in its tail, in (0, 1].
        mean_weight: Weight of the mean over non-empty clusters.
        max_weight: Weight of the worst cluster.
        max_over: `class`: the worst cluster of each class, averaged over the classes present;
            `all`: the worst of all clusters.

    Returns:
        Scalar loss.
    """
    num_clusters = num_classes * clusters_per_class
    values, sizes = clustered_cvar(
        losses, cluster_ids, num_clusters=num_clusters, tail_fraction=tail_fraction
    )
    filled = sizes > 0
    mean = values.sum() / filled.sum()  # empty clusters hold zero
    grid = values.masked_fill(~filled, -torch.inf).reshape(num_classes, clusters_per_class)
    worst = grid.amax(1)  # (K,)
    present = filled.reshape(num_classes, clusters_per_class).any(1)
    if max_over == "class":
        maximum = torch.where(present, worst, 0).sum() / present.sum()
    else:
        maximum = worst.amax()
    return losses.mean() + mean_weight * mean + max_weight * maximum
