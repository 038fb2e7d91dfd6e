"""One step of fine-tuning: what it draws, its loss, and what it leaves in the memories.

The host never waits for the device in here. Every draw of step s depends on (seed, s) alone, and
all processes draw the whole batch and keep their part, so their number does not change the run.
Shapes: B batch of this process, C channels, H and W.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distillery.models.diffusion import add_noise, predict_x0, split_eps
from distillery.models.dit import denoise
from distillery.seeds import torch_rng
from finetune.batches import ShuffledEpochs, drop_labels
from finetune.config import FinetuneConfig
from finetune.latents import LatentSource
from finetune.losses import denoising_loss, diversity_loss, representativeness_loss
from finetune.memory import ClassMemories
from finetune.processes import Processes
from finetune.variance import Posterior, variance_loss

TERMS = ("denoising", "representativeness", "diversity", "variance")
"""The terms of the loss in the order of `MinimaxLoss.__call__`, before their weights."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step sees, on the device."""

    x0: Tensor
    """Clean latents, (B, C, H, W)."""
    noise: Tensor
    """Standard normal, of the same shape."""
    timesteps: Tensor
    """Int64 (B,)."""
    labels: Tensor
    """Int64 (B,) in 0..K-1: whose memories."""
    rows: Tensor
    """Int64 (B,): rows of the label tables, the null row where the label was dropped."""


class Batches:
    """Draws the batch of any step."""

    def __init__(
        self,
        latents: LatentSource,
        labels: Tensor,
        class_rows: Tensor,
        null_row: int,
        num_timesteps: int,
        config: FinetuneConfig,
        seed: int,
    ) -> None:
        self._latents, self._labels, self._class_rows = latents, labels, class_rows
        self._null_row, self._num_timesteps = null_row, num_timesteps
        self._config, self._seed = config, seed
        self._epochs = ShuffledEpochs(len(latents), config.batch_size, seed, "finetune")

    def draw(self, step: int, processes: Processes) -> Batch:
        """Return this process's part of the batch of a step."""
        generator = torch_rng(self._seed, "finetune", step)
        indices = self._epochs.batch(step)
        size = (len(indices),)
        flips = torch.rand(size, generator=generator) < 0.5
        timesteps = torch.randint(self._num_timesteps, size, generator=generator)
        labels = self._labels[indices]
        rows = drop_labels(
            self._class_rows[labels], self._null_row, self._config.label_dropout, generator
        )
        x0 = self._latents.batch(indices, flips, generator)
        noise = torch.randn(x0.shape, generator=generator)
        return Batch(*map(processes.mine, (x0, noise, timesteps, labels, rows)))


class MinimaxLoss:
    """The loss of a batch, and the memories that it compares with and adds to."""

    def __init__(
        self,
        transformer: nn.Module,
        alphas_cumprod: Tensor,
        memories: ClassMemories,
        config: FinetuneConfig,
        processes: Processes,
    ) -> None:
        self._transformer = transformer
        self._alphas_cumprod = alphas_cumprod.to(processes.device)
        self._memories = memories
        self._config = config
        self._processes = processes
        self._posterior = Posterior(self._alphas_cumprod) if config.variance_loss else None

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the scalar to minimise, and its terms (4,) detached and not weighted.

        Fills the memories after the terms are computed, as Algorithm 1 does.
        """
        config = self._config
        noisy = add_noise(batch.x0, batch.noise, batch.timesteps, self._alphas_cumprod)
        output = denoise(self._transformer, noisy, batch.timesteps, batch.rows)
        eps, variance_values = split_eps(output, noisy.shape[1])
        predicted = self._embed(noisy, eps, batch.timesteps)
        reliable = batch.timesteps < config.max_timestep
        criteria: dict[str, Any] = {
            "active": reliable, "reduction": config.reduction, "peers": self._processes.peers,
        }  # fmt: skip
        memories = self._memories
        r = representativeness_loss(predicted, batch.labels, memories.real, **criteria)
        d = diversity_loss(predicted, batch.labels, memories.predicted, **criteria)
        denoising = denoising_loss(eps, batch.noise)
        total = denoising + config.representativeness_weight * r + config.diversity_weight * d
        variance = torch.zeros_like(denoising)
        if self._posterior is not None and variance_values is not None:
            variance = variance_loss(
                variance_values, eps, batch.x0, noisy, batch.timesteps,
                self._alphas_cumprod, self._posterior,
            )  # fmt: skip
            total = total + variance
        gather = self._processes.gather
        new = (batch.x0, predicted.detach(), batch.labels, reliable)
        real, predicted, labels, reliable = map(gather, new)
        memories.push(real.flatten(1), predicted.flatten(1), labels, reliable)
        return total, torch.stack([denoising, r, d, variance]).detach()

    def _embed(self, noisy: Tensor, eps: Tensor, timesteps: Tensor) -> Tensor:
        """Return the predicted embedding z_hat, (B, C, H, W)."""
        if self._config.prediction == "noisy_minus_eps":  # Algorithm 1, to the letter
            return noisy - eps
        return predict_x0(noisy, eps, timesteps, self._alphas_cumprod)
