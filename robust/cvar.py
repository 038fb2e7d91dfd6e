"""Conditional value at risk (CVaR): the mean of the worst part of a set of losses.

The tail is named by its share of the samples, `tail_fraction`. Papers use alpha both for that
share and for one minus it, so alpha does not appear here.

Source: Rockafellar & Uryasev (2002), "Conditional value-at-risk for general loss distributions":
with finitely many samples, one sample may lie partly in the tail. Vahidian et al. (2024), Eq. 3-4,
print the other tail, the samples with the smallest losses (`lower`); it is here for comparison
only, without the minus sign of the print, which would make training raise the losses.
Shapes: N samples, K clusters.
"""

from typing import Literal

import torch
from torch import Tensor

Tail = Literal["upper", "lower"]
"""`upper`: the worst samples, the CVaR of losses; `lower`: the best ones, as printed."""


def check_tail_fraction(tail_fraction: float) -> None:
    """Raise ValueError unless `tail_fraction` is in (0, 1]."""
    if not 0 < tail_fraction <= 1:
        raise ValueError(f"tail_fraction must be in (0, 1], got {tail_fraction}")


def _check_tail(tail: str) -> None:
    """Raise ValueError unless this tail is known."""
    if tail not in ("upper", "lower"):
        raise ValueError(f"tail must be upper or lower, got {tail!r}")


def cvar(losses: Tensor, *, tail_fraction: float, tail: Tail = "upper") -> Tensor:
    """Average the worst `tail_fraction` of the losses.

    Args:
        losses: Floating-point loss of each sample, (N,) with N >= 1; larger is worse.
        tail_fraction: Share of the samples in the tail, in (0, 1]; 1 gives the mean.
        tail: `lower` averages the smallest losses instead.

    Returns:
        Scalar CVaR. Its gradient reaches only the samples in the tail.

    Raises:
        ValueError: If `losses` is not a non-empty vector, `tail_fraction` is out of range, or
            `tail` is unknown.
    """
    if losses.ndim != 1 or losses.numel() == 0:
        raise ValueError(f"losses must have shape (N,) with N >= 1, got {tuple(losses.shape)}")
    check_tail_fraction(tail_fraction)
    _check_tail(tail)
    tail_first = losses.sort(descending=tail == "upper").values  # (N,)
    tail_size = tail_fraction * len(losses)  # need not be whole
    rank = torch.arange(len(losses), dtype=losses.dtype, device=losses.device)
    weight = (tail_size - rank).clamp(0, 1)  # (N,): 1 inside the tail, 0 beyond its edge
    return (weight * tail_first).sum() / tail_size


def clustered_cvar(
    losses: Tensor,
    cluster_ids: Tensor,
    *,
    num_clusters: int,
    tail_fraction: float,
    tail: Tail = "upper",
) -> tuple[Tensor, Tensor]:
    """Return the CVaR of each cluster and its size, without a loop over clusters.

    Args:
        losses: Loss of each sample, (N,), or of each sample under M alternatives, (N, M).
        cluster_ids: Cluster of each sample, int64 (N,) in [0, num_clusters).
        num_clusters: K.
        tail_fraction: Share of a cluster's samples in its tail, in (0, 1].
        tail: See `cvar`.

    Returns:
        CVaR of each cluster, (K,) or (K, M), zero for an empty one; sizes, int64 (K,).
    """
    check_tail_fraction(tail_fraction)
    _check_tail(tail)
    single = losses.ndim == 1
    columns = losses[:, None] if single else losses  # (N, M)
    sizes = torch.bincount(cluster_ids, minlength=num_clusters)  # (K,)
    starts = sizes.cumsum(0) - sizes
    # Two stable sorts order the samples by cluster, those of the tail first inside each
    by_loss = columns.argsort(dim=0, descending=tail == "upper", stable=True)  # (N, M)
    by_cluster = cluster_ids[by_loss].argsort(dim=0, stable=True)
    order = by_loss.gather(0, by_cluster)
    ids = cluster_ids[order]  # (N, M), sorted
    position = torch.arange(len(columns), device=losses.device)[:, None]
    rank = (position - starts[ids]).to(columns.dtype)
    tail_size = tail_fraction * sizes.to(columns.dtype)  # (K,)
    weight = (tail_size[ids] - rank).clamp(0, 1) / tail_size[ids]
    values = columns.new_zeros(num_clusters, columns.shape[1])
    values = values.scatter_add(0, ids, weight * columns.gather(0, order))
    return (values[:, 0] if single else values), sizes
