"""What a candidate, and a whole set, is worth to a proxy.

Shapes: N candidates, K classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.special import stdtrit
from torch import Tensor

from robust.clusters import merge_small
from robust.config import ProxyConfig
from robust.objective import group_robust_loss

SCORE_NAMES = ("proxy_loss", "margin")
"""Columns of `candidate_scores`."""
RESAMPLES = 100
"""Of a bootstrap: its standard error is then known to about 7 %."""
CERTAIN = 0.975
"""Share of chance's own gains below one that counts: 1 in 40 is larger."""


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
    """Standard error of the difference; NaN where nothing tells it."""
    freedom: float = math.inf
    """Degrees of freedom of the error, 1 or more: how well it is known itself."""

    def is_beyond_chance(self) -> bool:
        """Say whether the gain is beyond `CERTAIN` of chance's own; never where one is NaN.

        Chance's gains over their error follow Student's t: an error from few students is often
        too small, so that it takes more of them.
        """
        beyond = math.inf if math.isnan(self.freedom) else float(stdtrit(self.freedom, CERTAIN))
        return self.value > beyond * self.error


def score_gain(
    one: Tensor, other: Tensor, labels: Tensor, cluster_ids: Tensor, *, num_classes: int,
    config: ProxyConfig, seed: int,
) -> Gain:  # fmt: skip
    """Return how much lower the score of the other set is, and how sure that is.

    Two things would have come out otherwise by chance: the validation samples, whose part of the
    error is a bootstrap's over those of each class, and the students, whose part is their spread.

    Args:
        one: Cross-entropy of each validation sample by each student of one set, (S, N).
        other: The same of the other set, (S, N).
        labels: Classes of the validation samples, (N,).
        cluster_ids: Their clusters inside each class, (N,).
        num_classes: K.
        config: Tail share and sizes of clusters.
        seed: Of the resamples.

    Returns:
        The gain; its error is NaN with one student, or where a class has one validation sample.
    """
    merged = _merged(cluster_ids, num_classes, config)

    def scores(losses: Tensor, samples: Tensor) -> Tensor:
        chosen, clusters = losses[:, samples], merged[samples]
        own = [_score(student, clusters, num_classes, config) for student in chosen]
        return torch.tensor(own, dtype=torch.float64)  # (S,)

    everything = torch.arange(len(labels))
    first, second = scores(one, everything), scores(other, everything)
    value = float(first.mean() - second.mean())
    members = [torch.nonzero(labels == label)[:, 0] for label in labels.unique().tolist()]
    if len(one) < 2 or min(map(len, members)) < 2:
        return Gain(value, math.nan)
    generator = torch.Generator().manual_seed(seed)

    def resample() -> Tensor:
        # one less than there are: n of n would make the variance (n - 1) / n of what it is
        picks = [torch.randint(len(m), (len(m) - 1,), generator=generator) for m in members]
        return torch.cat([m[pick] for m, pick in zip(members, picks, strict=True)])

    resampled = [
        float(scores(one, samples).mean() - scores(other, samples).mean())
        for samples in (resample() for _ in range(RESAMPLES))
    ]
    by_samples = float(torch.tensor(resampled, dtype=torch.float64).var())
    by_students = [float(own.var() / len(own)) for own in (first, second)]
    return Gain(value, *_error(by_samples, by_students, len(one)))


def _error(by_samples: float, by_students: Sequence[float], num_students: int) -> tuple[float, ...]:
    """Return a standard error and its degrees of freedom (Welch-Satterthwaite)."""
    variance = by_samples + sum(by_students)
    unsure = sum(part**2 for part in by_students) / (num_students - 1)
    return math.sqrt(variance), variance**2 / unsure if unsure > 0 else math.inf


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
