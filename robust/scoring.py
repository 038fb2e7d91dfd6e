"""What a candidate, and a whole set, is worth to a proxy.

Shapes: N candidates, K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from robust.clusters import merge_small
from robust.config import ProxyConfig
from robust.objective import group_robust_loss

SCORE_NAMES = ("proxy_loss", "margin")
"""Columns of `candidate_scores`."""


def candidate_scores(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the proxy's loss and margin of each candidate, float32 (N, 2).

    The margin is the logit of the candidate's class less the best other one: negative where the
    proxy sees another class.

    Args:
        logits: The proxy's, (N, K) with K >= 2.
        labels: Class that each candidate was made for, (N,).
    """
    loss = F.cross_entropy(logits, labels, reduction="none")
    own = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    return torch.stack([loss, own - others], dim=1).float()


def set_score(logits: Tensor, labels: Tensor, cluster_ids: Tensor, *, config: ProxyConfig) -> float:
    """Return the group-robust loss, on validation samples, of a proxy trained on a whole set.

    Args:
        logits: Of the validation samples, (N, K).
        labels: Their classes, (N,).
        cluster_ids: Their clusters inside each class, (N,).
        config: Tail share and sizes of clusters.
    """
    num_classes = logits.shape[1]
    merged = merge_small(
        cluster_ids,
        clusters_per_class=config.num_clusters,
        num_classes=num_classes,
        min_size=config.min_cluster_size,
    )
    losses = F.cross_entropy(logits, labels, reduction="none")
    return float(
        group_robust_loss(
            losses,
            merged,
            num_classes=num_classes,
            clusters_per_class=config.num_clusters,
            tail_fraction=config.tail_fraction,
        )
    )
