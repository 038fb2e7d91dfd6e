"""Sampling: from noise to latents, by diffusers' schedulers and classifier-free guidance.

DPM-Solver++ (Lu et al. 2022) or DDIM (Song et al. 2020) with no noise added on the way, so that an
image depends on its first noise alone. Guidance: Ho & Salimans (2022), eps = uncond + scale x
(cond - uncond) on all latent channels, as diffusers' `DiTPipeline` does.
Shapes: N images, C channels, H and W of the latents, T training timesteps.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from torch import Tensor, nn

from distillery.models.base import DiffusionBase
from distillery.models.diffusion import split_eps
from distillery.models.dit import denoise
from distillery.replay import Replayed
from finetune.linear import fast_linears
from generator.noise import initial_noise

SamplerName = Literal["dpm-solver++", "ddim"]
Precision = Literal["no", "bf16"]
FEWEST_RECORDED = 4
"""Solver steps up to which a recording on a GPU would cost more than it saves."""


def make_scheduler(sampler: SamplerName, alphas_cumprod: Tensor, num_steps: int) -> Any:
    """Return a diffusers scheduler for this noise schedule, set to `num_steps` steps.

    Raises:
        ValueError: If the sampler is unknown.
    """
    previous = torch.cat([alphas_cumprod.new_ones(1), alphas_cumprod[:-1]])
    betas = (1 - alphas_cumprod / previous).numpy().astype(np.float32)
    scheduler: Any
    if sampler == "dpm-solver++":
        scheduler = DPMSolverMultistepScheduler(
            num_train_timesteps=len(betas),
            trained_betas=betas,
            algorithm_type="dpmsolver++",
            # At its end the cosine schedule has no signal left, and x0 = (x - sigma eps) / alpha
            # would be noise divided by zero: start where log(alpha / sigma) is -5.1 (Lu et al.)
            lambda_min_clipped=-5.1,
            # The last step to zero noise is of first order: second order overshoots there
            euler_at_final=num_steps < 15,
        )
    elif sampler == "ddim":
        scheduler = DDIMScheduler(
            num_train_timesteps=len(betas), trained_betas=betas, clip_sample=False,
            set_alpha_to_one=True,
        )  # fmt: skip
    else:
        raise ValueError(f"sampler must be dpm-solver++ or ddim, got {sampler!r}")
    with warnings.catch_warnings():
        # diffusers up to 0.42 turns a tensor into an array in a way that NumPy 2 deprecates
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
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


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return the context in which matrix products and convolutions run in this precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


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
    precision: Precision = "no",
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
        precision: `bf16` runs the transformer's matrix products in it; the solver stays float32.
        on_step: Called after each step; may raise `Cancelled`.
    """
    device = next(transformer.parameters()).device
    scheduler = make_scheduler(sampler, alphas_cumprod.cpu(), num_steps)
    latents, rows = noise.to(device) * float(scheduler.init_noise_sigma), rows.to(device)

    def estimate(latents: Tensor, timesteps: Tensor, rows: Tensor) -> tuple[Tensor]:
        eps = guided_eps(
            transformer, latents, timesteps, rows, null_row=null_row, guidance_scale=guidance_scale
        )
        return (eps,)

    network = Replayed(estimate, device, warmup=1, is_on=num_steps > FEWEST_RECORDED)
    with fast_linears(transformer), autocast(device, precision):
        for timestep in scheduler.timesteps:  # on the CPU: the host never waits for the device
            timesteps = torch.full((len(latents),), int(timestep), device=device)
            (eps,) = network(latents, timesteps, rows)
            latents = scheduler.step(eps.float(), timestep, latents).prev_sample
            if on_step is not None:
                on_step()
    return latents


@torch.inference_mode()
def sample_images(
    base: DiffusionBase,
    seeds: Sequence[int],
    rows: np.ndarray,
    *,
    precision: Precision = "no",
    **solver: Any,
) -> Tensor:
    """Return raw images, uint8 (N, C, H, W) on the CPU, one for each seed and label row.

    Args:
        base: On the device to use; its transformer in evaluation mode.
        seeds: Of the first noise of each image, see `generator.noise`.
        rows: Label row of each image, int64 (N,).
        precision: Of transformer and decoder, see `sample_latents`.
        solver: The other arguments of `sample_latents`, from `sampler` on.
    """
    latents = sample_latents(
        base.transformer,
        initial_noise(seeds, base.latent_shape),
        torch.from_numpy(rows),
        alphas_cumprod=base.alphas_cumprod,
        null_row=base.null_row,
        precision=precision,
        **solver,
    )
    with autocast(latents.device, precision):
        images = base.codec.decode(latents)
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()


def match_channels(images: Tensor, channels: int) -> Tensor:
    """Return raw images with this number of channels: gray ones where a colour base made them."""
    if channels == 1 and images.shape[1] == 3:
        return images.float().mean(1, keepdim=True).round().to(torch.uint8)
    return images
