"""The terms of the fine-tuning loss: denoising, and the two minimax criteria.

L = L_diffusion + lambda_r L_r + lambda_d L_d; both weights are positive.
Source: Gu et al. (2024), "Efficient dataset distillation via minimax diffusion", Eq. 3-5, and the
released code (docs/method.md). Shapes: B batch, D features, K classes, M memory entries per class.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from finetune.memory import Ring

Reduction = Literal["per_sample", "scalar"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Peers:
    """How samples of other processes take part in an extreme or a mean over the batch."""

    gather: Callable[[Tensor], Tensor]
    """Joins a tensor (B, ...) of every process along its first dimension, in order of rank."""
    num_processes: int
    rank: int


ALONE = Peers(gather=lambda tensor: tensor, num_processes=1, rank=0)
"""One process, which holds the whole batch."""


def denoising_loss(eps: Tensor, noise: Tensor) -> Tensor:
    """Return the mean squared error of predicted noise, (B, C, H, W) each, as a scalar.

    Source: Ho et al. (2020), Eq. 14.
    """
    return F.mse_loss(eps.float(), noise)


def min_snr_weights(alphas_cumprod: Tensor, max_snr: float) -> Tensor:
    """Return the weight of each timestep in a loss of predicted noise, mean one, float32 (T,).

    w_t = min(SNR_t, max_snr) / SNR_t with SNR_t = abar_t / (1 - abar_t): nearly clean images, whose
    noise can hardly be told and hardly matters for a sample, count for less.
    Source: Hang et al. (2023), "Efficient diffusion training via min-SNR weighting", section 3.4.

    Args:
        alphas_cumprod: abar, float64 (T,) in [0, 1).
        max_snr: Above 0.
    """
    weights = (max_snr * (1 - alphas_cumprod) / alphas_cumprod).clamp(max=1.0)
    return (weights / weights.mean()).float()


def representativeness_loss(
    predicted: Tensor,
    labels: Tensor,
    memory: Ring,
    *,
    active: Tensor,
    reduction: Reduction = "per_sample",
    peers: Peers = ALONE,
) -> Tensor:
    """Pull each prediction towards the real embedding of its class that is least like it.

    `per_sample`, Eq. 3:    mean over samples of 1 - min over m in M_c of cos(z_hat, z_m)
    `scalar`, as released:  mean over classes of 1 - min over samples and m of cos(z_hat, z_m)

    Args:
        predicted: Predicted embeddings z_hat, (B, ...); the gradient reaches these only.
        labels: Int64 (B,) in 0..K-1.
        memory: Real embeddings. A class without any adds nothing.
        active: Bool (B,); the other samples add nothing (t at or above `max_timestep`).
        reduction: Where the extreme is taken; both means count samples or classes that add nothing.
        peers: Other processes that hold parts of the same batch.

    Returns:
        Scalar, in [0, 2].
    """
    similarity, weight = _extreme(predicted, labels, memory, active, reduction, peers, sign=-1)
    return (weight * (1 - similarity)).sum()


def diversity_loss(
    predicted: Tensor,
    labels: Tensor,
    memory: Ring,
    *,
    active: Tensor,
    reduction: Reduction = "per_sample",
    peers: Peers = ALONE,
) -> Tensor:
    """Push each prediction away from the earlier prediction of its class that is most like it.

    `per_sample`, Eq. 4:    mean over samples of max over m in D_c of cos(z_hat, z_m)
    `scalar`, as released:  mean over classes of max over samples and m of cos(z_hat, z_m)

    Arguments as in `representativeness_loss`, with the memory of predictions. Returns a scalar in
    [-1, 1].
    """
    similarity, weight = _extreme(predicted, labels, memory, active, reduction, peers, sign=1)
    return (weight * similarity).sum()


def _extreme(
    predicted: Tensor,
    labels: Tensor,
    memory: Ring,
    active: Tensor,
    reduction: Reduction,
    peers: Peers,
    *,
    sign: int,
) -> tuple[Tensor, Tensor]:
    """Return each sample's largest (sign 1) or least (-1) similarity and its weight, (B,) each.

    The extreme entry is found without gradients; the gradient then needs that entry only, not the
    whole (B, M) matrix.
    """
    unit = F.normalize(predicted.flatten(1).float(), dim=1)  # (B, D)
    with torch.no_grad():
        # all classes in one product: cheaper than gathering M entries for each sample
        scores = (unit @ memory.entries.T).mul_(sign)  # (B, K * M)
        of_mine = labels[:, None] == torch.arange(memory.num_classes, device=labels.device)
        candidates = of_mine[:, :, None] & memory.valid()  # (B, K, M)
        scores.masked_fill_(~candidates.flatten(1), -torch.inf)
        score, nearest = scores.max(1)  # (B,)
        counts = active & (memory.pushed[labels] > 0)
        weight = _weights(score, labels, active, counts, memory.num_classes, reduction, peers)
    return (unit * memory.entries[nearest]).sum(1), weight


def _weights(
    score: Tensor,
    labels: Tensor,
    active: Tensor,
    counts: Tensor,
    num_classes: int,
    reduction: Reduction,
    peers: Peers,
) -> Tensor:
    """Return the share of each local sample in the mean, (B,); zero where `counts` is false.

    Gradients are averaged over processes, so the share of a sample in the whole batch is
    multiplied by their number.
    """
    if reduction == "per_sample":
        return counts / len(labels)  # equal parts on every process
    score, labels, active, counts = map(peers.gather, (score, labels, active, counts))
    score = score.masked_fill(~counts, -torch.inf)
    best = torch.full((num_classes,), -torch.inf, device=score.device)
    best = best.scatter_reduce(0, labels, score, "amax")  # (K,)
    chosen = (counts & (score == best[labels])).float()  # (B,): equal extremes share the weight
    ties = torch.zeros_like(best).index_add(0, labels, chosen)
    present = torch.zeros_like(best).scatter_reduce(0, labels, active.float(), "amax")  # (K,)
    num_present = present.sum().clamp(min=1)
    weight = chosen / ties.clamp(min=1)[labels] / num_present * peers.num_processes
    return weight.chunk(peers.num_processes)[peers.rank]
