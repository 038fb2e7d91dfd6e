"""The group-robust training objective: cross-entropy + mean CVaR + max CVaR over clusters.

Source: Vahidian et al. (2024), Eq. 2, with cross-entropy kept for stability (its section 4). The
max is taken inside each class and averaged over classes, or over all clusters (`max_over`).
Shapes: N samples, K classes, J clusters per class.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from robust.clusters import merge_small
from robust.cvar import Tail, check_tail_fraction, clustered_cvar

MaxOver = Literal["class", "all"]


def group_robust_loss(
    losses: Tensor,
    cluster_ids: Tensor,
    *,
    num_classes: int,
    clusters_per_class: int,
    tail_fraction: float,
    mean_weight: float = 1.0,
    max_weight: float = 1.0,
    max_over: MaxOver = "class",
    loss_weight: float = 1.0,
    tail: Tail = "upper",
    running: Tensor | None = None,
    memory: float = 0.9,
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
        loss_weight: Weight of the mean loss itself.
        tail: See `robust.cvar`.
        running: CVaR of each cluster over the steps so far, (K * J,), NaN where it was never seen;
            updated in place. The worst cluster is then chosen by it, not by the few samples that a
            batch holds of each. None: by the batch alone.
        memory: Share of the past in `running`.

    Returns:
        Scalar loss.
    """
    num_clusters = num_classes * clusters_per_class
    values, sizes = clustered_cvar(
        losses, cluster_ids, num_clusters=num_clusters, tail_fraction=tail_fraction, tail=tail
    )
    filled = sizes > 0
    mean = values.sum() / filled.sum()  # empty clusters hold zero
    ranking = values.detach() if running is None else _remember(running, values, filled, memory)
    grid = ranking.masked_fill(~filled, -torch.inf).reshape(num_classes, clusters_per_class)
    first = torch.arange(num_classes, device=losses.device) * clusters_per_class
    worst = values[first + grid.argmax(1)]  # (K,)
    present = filled.reshape(num_classes, clusters_per_class).any(1)
    if max_over == "class":
        maximum = torch.where(present, worst, 0).sum() / present.sum()
    else:
        maximum = values[grid.argmax()]
    return loss_weight * losses.mean() + mean_weight * mean + max_weight * maximum


def _remember(running: Tensor, values: Tensor, filled: Tensor, memory: float) -> Tensor:
    """Move the running CVaR of the clusters that this batch holds, in place, and return it."""
    present = values.detach()
    mixed = torch.where(running.isnan(), present, memory * running + (1 - memory) * present)
    running.copy_(torch.where(filled, mixed, running))
    return running


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupRobust:
    """The objective with its settings; each term can be switched off by a weight of zero."""

    tail_fraction: float = 0.8
    """Share of a cluster's samples in its tail."""
    tail: Tail = "upper"
    """`lower` averages the smallest losses, as printed; for comparison only."""
    loss_weight: float = 1.0
    """Of the mean cross-entropy."""
    mean_weight: float = 1.0
    """Of the mean CVaR of the clusters."""
    max_weight: float = 1.0
    """Of the worst cluster's CVaR."""
    max_over: MaxOver = "class"
    """The worst cluster of each class, averaged over classes, or the worst of all."""
    min_cluster_size: int = 4
    """Smaller clusters of a batch are merged; 1 merges none."""
    memory: float = 0.0
    """Share of the past in the running CVaR by which the worst cluster is chosen; 0: the batch."""
    samples_per_class: int | None = None
    """Real samples of each class that a batch must have; None: any batch."""
    every: int = 1
    """The robust terms count in one of so many steps, cross-entropy alone in the others."""

    def __post_init__(self) -> None:
        """Refuse values that no training can use."""
        check_tail_fraction(self.tail_fraction)
        if min(self.loss_weight, self.mean_weight, self.max_weight) < 0 or self.every < 1:
            raise ValueError(f"weights must be 0 or more and every 1 or more, got {self}")
        if not 0 <= self.memory < 1:
            raise ValueError(f"memory must be in [0, 1), got {self.memory}")
        if self.max_over not in ("class", "all"):
            raise ValueError(f"max_over must be class or all, got {self.max_over!r}")

    def batch_size(self, asked: int, num_classes: int) -> int:
        """Return `asked`, or the fewest real images a step that the objective can bear."""
        return max(asked, (self.samples_per_class or 0) * num_classes)

    def start(self, num_clusters: int, like: Tensor) -> Tensor | None:
        """Return the running CVaR of clusters that nothing was seen of, None without memory."""
        return torch.full((num_clusters,), torch.nan).to(like.device) if self.memory else None

    def __call__(
        self,
        losses: Tensor,
        cluster_ids: Tensor,
        *,
        num_classes: int,
        clusters_per_class: int,
        running: Tensor | None = None,
    ) -> Tensor:
        """Return the objective of a batch's losses (N,), small clusters merged.

        `running` is what `start` returned when training began; it is updated in place.

        Raises:
            ValueError: If the batch has fewer than `samples_per_class` samples a class on average,
                or the objective has a memory and no `running` is given.
        """
        wanted = (self.samples_per_class or 0) * num_classes
        if len(losses) < wanted:
            raise ValueError(
                f"this preset of the robust objective needs {self.samples_per_class} samples per "
                f"class and step, {wanted} in all, got {len(losses)}: enlarge the batch, or take "
                "the preset default"
            )
        if self.memory and running is None:
            raise ValueError("an objective with memory needs what start(...) returned as running")
        sizes = {"num_classes": num_classes, "clusters_per_class": clusters_per_class}
        merged = merge_small(cluster_ids, **sizes, min_size=self.min_cluster_size)
        return group_robust_loss(
            losses, merged, **sizes, tail_fraction=self.tail_fraction, tail=self.tail,
            loss_weight=self.loss_weight, mean_weight=self.mean_weight,
            max_weight=self.max_weight, max_over=self.max_over, running=running,
            memory=self.memory,
        )  # fmt: skip


PRESETS = {
    "default": GroupRobust(),
    "reference": GroupRobust(max_over="all", min_cluster_size=1, samples_per_class=256),
}
"""`reference`: the paper's, a max over all clusters, which a small batch makes the loss of a few
images. `default`: the max inside each class, which any batch can bear (docs/method.md)."""
