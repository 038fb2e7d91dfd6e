"""The forward diffusion and its inverse: how noise is added, and how an image is estimated.

Source: Ho et al. (2020), Eq. 4 and 15; cosine schedule: Nichol & Dhariwal (2021), Eq. 17.
Shapes: N batch, C channels, H and W, T timesteps. Schedules are float64, images float32.
"""

import math
from typing import get_args

import torch
from torch import Tensor

from distillery.models.config import NoiseSchedule

MAX_BETA = 0.999
"""Bound of the cosine schedule's steps, against a singularity at the last one."""


def alphas_cumprod(
    schedule: NoiseSchedule,
    num_timesteps: int = 1000,
    *,
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
) -> Tensor:
    """Return the share of signal variance that is left at each timestep.

    Args:
        schedule: `linear` (betas from `beta_start` to `beta_end`) or `squaredcos_cap_v2` (cosine).
        num_timesteps: Length T of the diffusion.
        beta_start: First beta of the linear schedule.
        beta_end: Last beta of the linear schedule.

    Returns:
        Float64 (T,), falling from nearly 1 to nearly 0. The schedulers of diffusers hold the same
        numbers in float32.

    Raises:
        ValueError: If the schedule is neither of the two.
    """
    if schedule == "linear":
        betas = torch.linspace(beta_start, beta_end, num_timesteps, dtype=torch.float64)
    elif schedule == "squaredcos_cap_v2":
        edges = torch.arange(num_timesteps + 1, dtype=torch.float64) / num_timesteps  # (T + 1,)
        kept = torch.cos((edges + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = (1 - kept[1:] / kept[:-1]).clamp(max=MAX_BETA)
    else:
        raise ValueError(f"schedule must be one of {get_args(NoiseSchedule)}, got {schedule!r}")
    return torch.cumprod(1 - betas, dim=0)


def _coefficients(images: Tensor, timesteps: Tensor, alphas_cumprod: Tensor) -> tuple[Tensor, ...]:
    """Return sqrt(abar_t) and sqrt(1 - abar_t), each (N, 1, 1, 1) and float32."""
    kept = alphas_cumprod[timesteps.to(alphas_cumprod.device)].to(torch.float64)
    # differences of numbers near 1 lose digits in float32, so the cast comes last
    signal, noise = kept.sqrt(), (1 - kept).sqrt()
    shape = (-1,) + (1,) * (images.ndim - 1)
    return tuple(c.to(images.device, torch.float32).view(shape) for c in (signal, noise))


def add_noise(x0: Tensor, noise: Tensor, timesteps: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """Return x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps.

    Args:
        x0: Clean images or latents, (N, C, H, W).
        noise: Standard normal noise eps of the same shape.
        timesteps: Int64 (N,) in [0, T).
        alphas_cumprod: Float64 (T,). On the device of `x0`, or each call waits for a transfer.

    Returns:
        Noisy images, float32 (N, C, H, W).
    """
    signal_scale, noise_scale = _coefficients(x0, timesteps, alphas_cumprod)
    return signal_scale * x0.float() + noise_scale * noise.float()


def predict_x0(noisy: Tensor, eps: Tensor, timesteps: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """Return the clean image that a predicted noise implies.

    x_0 = (x_t - sqrt(1 - abar_t) eps) / sqrt(abar_t)

    Args:
        noisy: x_t, (N, C, H, W).
        eps: Predicted noise of the same shape; the gradient reaches it.
        timesteps: Int64 (N,) in [0, T).
        alphas_cumprod: Float64 (T,), see `add_noise`.

    Returns:
        Estimated clean images, float32 (N, C, H, W), not clipped.
    """
    signal_scale, noise_scale = _coefficients(noisy, timesteps, alphas_cumprod)
    return (noisy.float() - noise_scale * eps.float()) / signal_scale


def split_eps(model_output: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
    """Split what a DiT returns into (predicted noise, values of its learned variance or None).

    Args:
        model_output: (N, C, H, W), or (N, 2C, H, W) where the network predicts its variance.
        channels: C.

    Raises:
        ValueError: If the output has neither C nor 2C channels.
    """
    if model_output.shape[1] == channels:
        return model_output, None
    if model_output.shape[1] != 2 * channels:
        raise ValueError(
            f"model_output must have {channels} or {2 * channels} channels, "
            f"got {model_output.shape[1]}"
        )
    eps, variance_values = model_output.split(channels, dim=1)
    return eps, variance_values
