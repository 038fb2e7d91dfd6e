"""The published kind of loop, written plainly, for benchmarks to compare with.

As the released Minimax code does it: float32 (TF32 on a GPU), every batch encoded anew, averages of
all weights, memories as lists per class, the loss read at every step, one image sampled at a time.
The variational bound of the released loop is left out, as ours leaves it out by default.
Source: Gu et al. (2024), as its released code does it.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DiTPipeline
from torch import Tensor, nn

from distillery.models.diffusion import add_noise, alphas_cumprod, predict_x0
from distillery.models.dit import denoise

EMA_DECAY = 0.9999
MEMORY_SIZE = 64


class PlainFinetune:
    """Fine-tuning steps on random images of ten classes."""

    def __init__(self, transformer: nn.Module, vae: Any, *, batch_size: int, image_size: int):
        """Take networks on the device to use; biases and label tables train."""
        self.transformer, self.vae, self.batch_size = transformer, vae, batch_size
        self.device = next(transformer.parameters()).device
        self.images = torch.randint(0, 256, (200, 3, image_size, image_size), dtype=torch.uint8)
        self.average = copy.deepcopy(transformer)
        trainable = [
            parameter.requires_grad_("bias" in name or "embedding_table" in name)
            for name, parameter in transformer.named_parameters()
        ]
        trainable = [parameter for parameter in trainable if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trainable, lr=1e-3, weight_decay=0.0)
        self.alphas_cumprod = alphas_cumprod("linear").to(self.device)
        self.real: dict[int, list[Tensor]] = {label: [] for label in range(10)}
        self.predicted: dict[int, list[Tensor]] = {label: [] for label in range(10)}
        self.loss = 0.0

    def encode(self) -> Tensor:
        """Return latents of a random batch, (B, c, h, w)."""
        batch = self.images[torch.randint(len(self.images), (self.batch_size,))].to(self.device)
        with torch.no_grad():
            latents = self.vae.encode(batch.float() / 127.5 - 1).latent_dist.sample()
        return latents * self.vae.config.scaling_factor

    def step(self) -> None:
        """Take one step."""
        x0 = self.encode()
        labels = torch.randint(10, (self.batch_size,), device=self.device)
        timesteps = torch.randint(1000, (self.batch_size,), device=self.device)
        noise = torch.randn_like(x0)
        noisy = add_noise(x0, noise, timesteps, self.alphas_cumprod)
        eps = denoise(self.transformer, noisy, timesteps, labels)[:, : x0.shape[1]]
        x0_hat = predict_x0(noisy, eps, timesteps, self.alphas_cumprod)
        loss = (eps - noise).square().mean() + self._criteria(x0, x0_hat, labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            pairs = zip(self.average.parameters(), self.transformer.parameters(), strict=True)
            for average, parameter in pairs:
                average.mul_(EMA_DECAY).add_(parameter, alpha=1 - EMA_DECAY)
        self.loss += loss.item()

    def _criteria(self, x0: Tensor, x0_hat: Tensor, labels: Tensor) -> Tensor:
        """Return the two minimax terms, class by class, and fill the memories."""
        total = x0.new_zeros(())
        for label in labels.unique().tolist():
            mine = labels == label
            predicted = F.normalize(x0_hat[mine].flatten(1), dim=1)
            if self.real[label]:
                total = total - 0.002 * (predicted @ torch.stack(self.real[label]).T).min()
                total = total + 0.008 * (predicted @ torch.stack(self.predicted[label]).T).max()
            self.real[label] += list(F.normalize(x0[mine].flatten(1), dim=1))
            self.predicted[label] += list(predicted.detach())
            self.real[label] = self.real[label][-MEMORY_SIZE:]
            self.predicted[label] = self.predicted[label][-MEMORY_SIZE:]
        return total


def stock_pipeline(transformer: nn.Module, vae: Any) -> DiTPipeline:
    """Return diffusers' own pipeline around the networks."""
    pipeline = DiTPipeline(transformer, vae, DDIMScheduler(clip_sample=False))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
