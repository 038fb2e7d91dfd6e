"""Pretraining of a small pixel-space DiT on the user's own images, from nothing.

Predicts the noise with a weighted squared error; AdamW with warm-up and cosine decay; averaged
weights. Source: Ho et al. (2020), Eq. 14; weights: Hang et al. (2023); spread timesteps: Kingma et
al. (2021); label dropout: Ho & Salimans (2022).
Shapes: N images, B batch, C channels, H and W.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distillery.checkpoint import Checkpoint
from distillery.errors import Cancelled, JobError, TrainingError
from distillery.files import digest_json
from distillery.models.diffusion import add_noise, split_eps
from distillery.models.dit import denoise, disable_label_dropout, label_tables
from distillery.progress import OnProgress, Progress, ignore_progress
from distillery.replay import Replayed
from distillery.seeds import torch_rng
from finetune.batches import ShuffledEpochs, drop_labels, spread_timesteps
from finetune.config import PretrainConfig
from finetune.ema import update_average, warmed_decay
from finetune.latents import PixelLatents
from finetune.linear import fast_linears
from finetune.losses import min_snr_weights

MAX_GRADIENT_NORM = 1.0
ADAM_BETAS = (0.9, 0.99)
"""A run of a thousand steps is too short for the usual .999."""
REPORT_INTERVAL = 20
"""Steps between two reports; the loss is read from the device then only."""


def learning_rate_at(step: int, config: PretrainConfig) -> float:
    """Return the rate of a step: linear warm-up, then half a cosine down to zero."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.num_steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))


class _Run:
    """Everything that changes from step to step, and its way into a checkpoint and back."""

    def __init__(self, transformer: nn.Module, config: PretrainConfig, num_items: int) -> None:
        self.parameters: list[Tensor] = list(transformer.parameters())
        self.device = self.parameters[0].device
        on_gpu = self.device.type == "cuda"
        # a tensor of the GPU can change while a recorded step is replayed
        self.rate = torch.tensor(config.learning_rate, device=self.device) if on_gpu else None
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.learning_rate if self.rate is None else self.rate,
            betas=ADAM_BETAS, weight_decay=0.0, fused=True, capturable=on_gpu,
        )  # fmt: skip
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        self.decay = torch.zeros((), device=self.device) if on_gpu else None
        self.losses: list[float] = []
        # what makes a checkpoint ours: it holds numbers, the shapes are those of the network
        sizes = [parameter.numel() for parameter in self.parameters]
        self.identity = digest_json([asdict(config), sizes, num_items])

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of the next step."""
        if self.rate is not None:
            self.rate.fill_(rate)
            return
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def decay_of(self, decay: float) -> float | Tensor:
        """Return the decay of the average; on a GPU as a tensor that is always the same one."""
        return decay if self.decay is None else self.decay.fill_(decay)

    def _moments(self, name: str) -> list[Tensor]:
        return [self.optimizer.state[parameter][name] for parameter in self.parameters]

    def save(self, checkpoint: Checkpoint) -> None:
        """Store weights, average and optimiser as four flat vectors, with the losses so far."""
        groups: dict[str, Sequence[Tensor]] = {
            "weights": self.parameters,
            "average": self.average,
            "exp_avg": self._moments("exp_avg"),
            "exp_avg_sq": self._moments("exp_avg_sq"),
        }
        arrays = {name: _flat(tensors) for name, tensors in groups.items()}
        arrays["losses"] = np.array(self.losses, np.float64)
        checkpoint.save(arrays, {"step": len(self.losses), "identity": self.identity})

    @torch.no_grad()
    def restore(self, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        """Continue from a stored state.

        Raises:
            JobError: If the state is that of another run.
        """
        if facts.get("identity") != self.identity:
            raise JobError(
                "the pretraining checkpoint belongs to another configuration or dataset: "
                "delete it, or use another folder"
            )
        _fill(self.parameters, arrays["weights"])
        _fill(self.average, arrays["average"])
        for parameter in self.parameters:
            self.optimizer.state[parameter] = {
                "step": torch.tensor(float(facts["step"]), device=parameter.device),
                "exp_avg": torch.empty_like(parameter),
                "exp_avg_sq": torch.empty_like(parameter),
            }
        for name in ("exp_avg", "exp_avg_sq"):
            _fill(self._moments(name), arrays[name])
        self.losses = arrays["losses"].tolist()


def _flat(tensors: Sequence[Tensor]) -> np.ndarray:
    return torch.cat([tensor.detach().flatten() for tensor in tensors]).cpu().numpy()


def _fill(tensors: Sequence[Tensor], flat: np.ndarray) -> None:
    parts = torch.from_numpy(flat).split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view_as(tensor))


def pretrain(
    transformer: nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    config: PretrainConfig,
    *,
    alphas_cumprod: Tensor,
    checkpoint: Checkpoint,
    on_progress: OnProgress = ignore_progress,
    flip: bool = False,
) -> dict[str, Tensor]:
    """Train a DiT on images from its present weights, and return the averaged weights.

    Every draw of step s depends on (`config.base_seed`, s) alone, and the state is saved every few
    seconds: an interrupted run, started again, ends with the same bytes.

    Args:
        transformer: A diffusers DiT with C input channels; trained in place, on its own device.
        images: Uint8 (N, C, H, W).
        labels: Int64 (N,), rows of the label tables.
        config: Length, rates and seed of the run.
        alphas_cumprod: Float64 (T,), the noise schedule.
        checkpoint: Where the state is kept; an existing one is continued.
        on_progress: Told the loss every few steps; may raise `Cancelled`.
        flip: Mirror half of the images, where left and right mean the same.

    Returns:
        The averaged weights, a complete state dict of `transformer`.

    Raises:
        Cancelled: If `on_progress` asked to stop; the state is saved first.
        JobError: If `checkpoint` holds the state of another run.
        TrainingError: If the loss is no longer finite.
    """
    if len(images) != len(labels):
        raise ValueError(f"images and labels must pair up, got {len(images)} and {len(labels)}")
    disable_label_dropout(transformer)
    transformer.train().requires_grad_(True)
    run = _Run(transformer, config, len(images))
    saved = checkpoint.load()
    if saved is not None:
        run.restore(*saved)
    data = (PixelLatents(images, flip=flip), torch.from_numpy(labels))
    with fast_linears(transformer):
        _train(transformer, run, data, config, alphas_cumprod, checkpoint, on_progress)
    averaged = dict(transformer.state_dict())
    names = [name for name, _ in transformer.named_parameters()]
    averaged.update(zip(names, run.average, strict=True))
    return averaged


def _train(
    transformer: nn.Module,
    run: _Run,
    data: tuple[PixelLatents, Tensor],
    config: PretrainConfig,
    alphas_cumprod: Tensor,
    checkpoint: Checkpoint,
    on_progress: OnProgress,
) -> None:
    """Take the steps that are left, reporting and saving on the way."""
    latents, rows = data
    weights = _weights(alphas_cumprod, config).to(run.device)
    alphas_cumprod = alphas_cumprod.to(run.device)
    epochs = ShuffledEpochs(len(rows), config.batch_size, config.base_seed, "pretrain")
    recent: list[Tensor] = []
    decay: float | Tensor = 0.0

    def train_on(x0: Tensor, noise: Tensor, timesteps: Tensor, rows: Tensor) -> tuple[Tensor]:
        errors = _errors(transformer, x0, noise, timesteps, rows, alphas_cumprod)
        loss = (weights[timesteps] * errors).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(run.parameters, MAX_GRADIENT_NORM)
        run.optimizer.step()
        run.optimizer.zero_grad()
        update_average(run.average, run.parameters, decay)
        return (loss.detach(),)

    take_step = Replayed(train_on, run.device)
    null_row = label_tables(transformer)[0].num_embeddings - 1
    for step in range(len(run.losses), config.num_steps):
        run.set_rate(learning_rate_at(step, config))
        decay = run.decay_of(warmed_decay(config.ema_decay, step))
        batch = epochs.batch(step)
        generator = torch_rng(config.base_seed, "pretrain", step)
        drawn = _draw(latents, rows[batch], batch, null_row, config, len(alphas_cumprod), generator)
        recent += take_step(*(one.to(run.device, non_blocking=True) for one in drawn))
        done = step + 1
        if done % REPORT_INTERVAL and done != config.num_steps:
            continue
        _read_losses(run, recent)
        if checkpoint.is_due() or done == config.num_steps:
            run.save(checkpoint)
        _report(run, config, checkpoint, on_progress)


def _draw(
    latents: PixelLatents,
    rows: Tensor,
    batch: Tensor,
    null_row: int,
    config: PretrainConfig,
    num_timesteps: int,
    generator: torch.Generator,
) -> tuple[Tensor, ...]:
    """Return images (B, C, H, W), noise, timesteps (B,) and label rows (B,), on the CPU."""
    flips = torch.rand(len(batch), generator=generator) < 0.5
    x0 = latents.batch(batch, flips, generator)
    timesteps = spread_timesteps(len(batch), num_timesteps, generator)
    noise = torch.randn(x0.shape, generator=generator)
    return x0, noise, timesteps, drop_labels(rows, null_row, config.label_dropout, generator)


def _weights(alphas_cumprod: Tensor, config: PretrainConfig) -> Tensor:
    """Return the weight of each timestep in the loss, (T,)."""
    if config.max_snr is None:
        return torch.ones(len(alphas_cumprod))
    return min_snr_weights(alphas_cumprod, config.max_snr)


def _errors(
    transformer: nn.Module, x0: Tensor, noise: Tensor, timesteps: Tensor, rows: Tensor,
    alphas_cumprod: Tensor,
) -> Tensor:  # fmt: skip
    """Return the mean squared error of each image's predicted noise, (B,)."""
    noisy = add_noise(x0, noise, timesteps, alphas_cumprod)
    eps, _ = split_eps(denoise(transformer, noisy, timesteps, rows), x0.shape[1])
    return (eps - noise).square().flatten(1).mean(1)


def _read_losses(run: _Run, recent: list[Tensor]) -> None:
    """Move the losses of the last steps to the host, and stop at the first that is not finite."""
    for loss in torch.stack(recent).tolist():
        if not math.isfinite(loss):
            raise TrainingError(
                f"the pretraining loss became {loss} at step {len(run.losses)}: "
                "lower learning_rate, the last good state is kept"
            )
        run.losses.append(loss)
    recent.clear()
    # a gradient can overflow while its loss is finite; such weights must not be saved
    if not math.isfinite(torch.stack(torch._foreach_norm(run.parameters)).sum().item()):
        raise TrainingError(
            f"the pretraining weights are no longer finite after step {len(run.losses) - 1}: "
            "lower learning_rate, the last good state is kept"
        )


def _report(
    run: _Run, config: PretrainConfig, checkpoint: Checkpoint, on_progress: OnProgress
) -> None:
    """Tell where the run stands; save first if the answer is to stop."""
    done = len(run.losses)
    loss = float(np.mean(run.losses[-5 * REPORT_INTERVAL :]))
    try:
        on_progress(
            Progress("pretrain", done, config.num_steps, "learning your images", {"loss": loss})
        )
    except Cancelled:
        run.save(checkpoint)
        raise
