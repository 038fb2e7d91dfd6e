"""What a candidate, and a whole set, is worth to a proxy.

Shapes: N candidates, K classes.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from robust.clusters import merge_small
from robust.config import ProxyConfig
from robust.objective import group_robust_loss

SCORE_NAMES = ("proxy_loss", "margin")
"""Columns of `candidate_scores`."""
RESAMPLES = 200
"""Of a bootstrap: its standard error is then known to about 5 %."""
CERTAIN = 2.0
"""Standard errors beyond which a gain counts: about 1 in 40 that chance alone gives it."""


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


def set_score(
    losses: Tensor, cluster_ids: Tensor, *, num_classes: int, config: ProxyConfig
) -> float:
    """Return the group-robust loss, on validation samples, of a proxy trained on a whole set.

    Args:
        losses: Cross-entropy of each validation sample, (N,).
        cluster_ids: Their clusters inside each class, (N,).
        num_classes: K.
        config: Tail share and sizes of clusters.
    """
    merged = _merged(cluster_ids, num_classes, config)
    return _score(losses, merged, num_classes, config)


@dataclass(frozen=True, slots=True)
class Gain:
    """By how much one set is better than another."""

    value: float
    """Score of the one less that of the other; above 0 where the other is better."""
    error: float
    """Standard error of the difference."""

    def is_beyond_chance(self) -> bool:
        """Say whether the gain is more than `CERTAIN` standard errors; never where one is NaN."""
        return self.value > CERTAIN * self.error


def score_gain(
    one: Tensor, other: Tensor, labels: Tensor, cluster_ids: Tensor, *, num_classes: int,
    config: ProxyConfig, seed: int,
) -> Gain:  # fmt: skip
    """Return how much lower the score of the other set is, and how sure that is.

    The error is that of a bootstrap over the validation samples of each class and over the pairs of
    students: what another validation split, and other students, would have changed.

    Args:
        one: Cross-entropy of each validation sample by each student of one set, (S, N).
        other: The same of the other set; its students had the same seeds, (S, N).
        labels: Classes of the validation samples, (N,).
        cluster_ids: Their clusters inside each class, (N,).
        num_classes: K.
        config: Tail share and sizes of clusters.
        seed: Of the resamples.
    """
    merged = _merged(cluster_ids, num_classes, config)

    def difference(students: Tensor, samples: Tensor) -> float:
        clusters = merged[samples]
        first, second = (
            sum(_score(losses[s][samples], clusters, num_classes, config) for s in students)
            for losses in (one, other)
        )
        return float(first - second) / len(students)

    generator = torch.Generator().manual_seed(seed)
    members = [torch.nonzero(labels == label)[:, 0] for label in labels.unique().tolist()]
    resampled = [
        difference(
            torch.randint(len(one), (len(one),), generator=generator),
            torch.cat([m[torch.randint(len(m), (len(m),), generator=generator)] for m in members]),
        )
        for _ in range(RESAMPLES)
    ]
    whole = difference(torch.arange(len(one)), torch.arange(one.shape[1]))
    return Gain(whole, float(torch.tensor(resampled, dtype=torch.float64).std()))


def _merged(cluster_ids: Tensor, num_classes: int, config: ProxyConfig) -> Tensor:
    """Return the clusters, small ones joined to larger ones."""
    return merge_small(
        cluster_ids,
        clusters_per_class=config.num_clusters,
        num_classes=num_classes,
        min_size=config.min_cluster_size,
    )


def _score(losses: Tensor, merged: Tensor, num_classes: int, config: ProxyConfig) -> float:
    """Return the group-robust loss of samples in merged clusters."""
    return float(
        group_robust_loss(
            losses,
            merged,
            num_classes=num_classes,
            clusters_per_class=config.num_clusters,
            tail_fraction=config.tail_fraction,
        )
    )
