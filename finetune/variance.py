"""The variational bound that trains a learned variance, for bases that predict one.

The network interpolates between the two extreme variances of a step, in their logarithms. The
mean is not trained by this term. Source: Nichol & Dhariwal (2021), "Improved denoising diffusion
probabilistic models", Eq. 10, 11, 15 and 16. Shapes: B batch, C channels, H and W, T timesteps.
"""

import math

import torch
from torch import Tensor

from distillery.models.diffusion import predict_x0

BIN = 1 / 255
"""Half the distance of two levels of an 8-bit image in [-1, 1]."""


class Posterior:
    """Coefficients of q(x_{t-1} | x_t, x_0), as float32 tables (T,) on one device."""

    def __init__(self, alphas_cumprod: Tensor) -> None:
        kept = alphas_cumprod.double()
        before = torch.cat([torch.ones_like(kept[:1]), kept[:-1]])
        betas = 1 - kept / before
        variance = betas * (1 - before) / (1 - kept)
        variance[0] = variance[1]  # it is zero at t = 0, where only the likelihood is used
        self.log_min = variance.log().float()
        self.log_max = betas.log().float()
        self.of_x0 = (betas * before.sqrt() / (1 - kept)).float()
        self.of_noisy = ((1 - before) * (kept / before).sqrt() / (1 - kept)).float()

    def mean(self, x0: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """Return the mean of x_{t-1} given x_t and x_0, (B, C, H, W)."""
        at = timesteps.view(-1, 1, 1, 1)
        return self.of_x0[at] * x0 + self.of_noisy[at] * noisy


def variance_loss(
    variance_values: Tensor,
    eps: Tensor,
    x0: Tensor,
    noisy: Tensor,
    timesteps: Tensor,
    alphas_cumprod: Tensor,
    posterior: Posterior,
) -> Tensor:
    """Return the variational bound in bits per dimension, averaged over the batch.

    KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)), and at t = 0 the negative log-likelihood of x_0
    in bins of 8-bit levels.

    Args:
        variance_values: What the network predicts beside the noise, (B, C, H, W); -1 is the least
            variance, 1 the largest. The gradient reaches these only.
        eps: Predicted noise, (B, C, H, W).
        x0: Clean latents.
        noisy: x_t.
        timesteps: Int64 (B,).
        alphas_cumprod: Float64 (T,).
        posterior: Tables of the same schedule, on the device of the tensors.
    """
    at = timesteps.view(-1, 1, 1, 1)
    low, high = posterior.log_min[at], posterior.log_max[at]
    share = (variance_values.float() + 1) / 2
    log_variance = share * high + (1 - share) * low
    true_mean = posterior.mean(x0, noisy, timesteps)
    x0_hat = predict_x0(noisy, eps.detach(), timesteps, alphas_cumprod)
    mean = posterior.mean(x0_hat, noisy, timesteps)
    divergence = 0.5 * (
        log_variance - low - 1 + (low - log_variance).exp()
        + (true_mean - mean).square() * (-log_variance).exp()
    )  # fmt: skip
    first = _discretised_nll(x0, mean, log_variance)
    return torch.where(at == 0, first, divergence).mean() / math.log(2)


def _discretised_nll(x0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return -log of the normal probability of the 8-bit bin around each value, in nats."""
    scale = (-0.5 * log_variance).exp()
    upper = torch.special.ndtr((x0 - mean + BIN) * scale)
    lower = torch.special.ndtr((x0 - mean - BIN) * scale)
    upper = torch.where(x0 > 0.999, 1.0, upper)  # the outermost bins have no outer edge
    lower = torch.where(x0 < -0.999, 0.0, lower)
    return -(upper - lower).clamp(min=1e-12).log()
