"""Sampling: from noise to latents, by diffusers' schedulers and classifier-free guidance.

DPM-Solver++ (Lu et al. 2022) or DDIM (Song et al. 2020) with no noise added on the way, so that an
image depends on its first noise alone. Guidance: Ho & Salimans (2022), eps = uncond + scale x
(cond - uncond) on all latent channels, as diffusers' `DiTPipeline` does.
Shapes: N images, C channels, H and W of the latents, T training timesteps.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from torch import Tensor, nn

from distillery.models.diffusion import split_eps
from distillery.models.dit import denoise

SamplerName = Literal["dpm-solver++", "ddim"]


def make_scheduler(
    sampler: SamplerName, alphas_cumprod: Tensor, num_steps: int
) -> DDIMScheduler | DPMSolverMultistepScheduler:
    """Return a diffusers scheduler for this noise schedule, set to `num_steps` steps.

    Raises:
        ValueError: If the sampler is unknown.
    """
    previous = torch.cat([alphas_cumprod.new_ones(1), alphas_cumprod[:-1]])
    betas = (1 - alphas_cumprod / previous).numpy().astype(np.float32)
    if sampler == "dpm-solver++":
        scheduler = DPMSolverMultistepScheduler(
            trained_betas=betas,
            algorithm_type="dpmsolver++",
            # At its end the cosine schedule has no signal left, and x0 = (x - sigma eps) / alpha
            # would be noise divided by zero: start where log(alpha / sigma) is -5.1 (Lu et al.)
            lambda_min_clipped=-5.1,
            # The last step to zero noise is of first order: second order overshoots there
            euler_at_final=num_steps < 15,
        )
    elif sampler == "ddim":
        scheduler = DDIMScheduler(trained_betas=betas, clip_sample=False, set_alpha_to_one=True)
    else:
        raise ValueError(f"sampler must be dpm-solver++ or ddim, got {sampler!r}")
    scheduler.set_timesteps(num_steps)
    return scheduler


def guided_eps(
    transformer: nn.Module,
    latents: Tensor,
    timesteps: Tensor,
    rows: Tensor,
    *,
    null_row: int,
    guidance_scale: float,
) -> Tensor:
    """Return the guided noise estimate (N, C, H, W); one forward pass where the scale is 1.

    Args:
        transformer: A DiT, see `distillery.models.dit.denoise`.
        latents: (N, C, H, W).
        timesteps: (N,).
        rows: Label row of each image, (N,).
        null_row: Row of the null class.
        guidance_scale: 1 for none.
    """
    channels = latents.shape[1]
    if guidance_scale == 1:
        return split_eps(denoise(transformer, latents, timesteps, rows), channels)[0]
    null = torch.full_like(rows, null_row)
    output = denoise(
        transformer, latents.repeat(2, 1, 1, 1), timesteps.repeat(2), torch.cat([rows, null])
    )
    conditional, unconditional = split_eps(output, channels)[0].chunk(2)
    return unconditional + guidance_scale * (conditional - unconditional)


@torch.inference_mode()
def sample_latents(
    transformer: nn.Module,
    noise: Tensor,
    rows: Tensor,
    *,
    alphas_cumprod: Tensor,
    null_row: int,
    sampler: SamplerName = "dpm-solver++",
    num_steps: int = 15,
    guidance_scale: float = 1.0,
    on_step: Callable[[], None] | None = None,
) -> Tensor:
    """Return the latents (N, C, H, W) that the noise (N, C, H, W) leads to.

    Args:
        transformer: A DiT in evaluation mode.
        noise: Standard normal, float32.
        rows: Label row of each image, int64 (N,).
        alphas_cumprod: Noise schedule of the base, float64 (T,).
        null_row: Row of the null class.
        sampler: Which solver.
        num_steps: Solver steps.
        guidance_scale: 1 for none; the field uses up to 4.
        on_step: Called after each step; may raise `Cancelled`.
    """
    device = next(transformer.parameters()).device
    scheduler = make_scheduler(sampler, alphas_cumprod.cpu(), num_steps)
    latents, rows = noise.to(device) * float(scheduler.init_noise_sigma), rows.to(device)
    for timestep in scheduler.timesteps:
        eps = guided_eps(
            transformer,
            scheduler.scale_model_input(latents, timestep),
            timestep.to(device).expand(len(latents)),
            rows,
            null_row=null_row,
            guidance_scale=guidance_scale,
        )
        latents = scheduler.step(eps, timestep, latents).prev_sample
        if on_step is not None:
            on_step()
    return latents
