"""Settings of pretraining and fine-tuning. No torch: the API process reads this file too."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from distillery.errors import ConfigError

MinimaxPreset = Literal["default", "reference", "printed"]
BaseKind = Literal["pixel", "latent"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainConfig:
    """How a small pixel-space DiT is trained from nothing on the user's images."""

    num_steps: int = 1200
    """Optimiser steps."""
    batch_size: int = 32
    """Images a step."""
    learning_rate: float = 5e-3
    """Peak of the cosine schedule, after `warmup_steps`."""
    warmup_steps: int = 100
    """Steps of linear warm-up."""
    ema_decay: float = 0.995
    """Decay of the averaged weights, which are the ones that sample."""
    label_dropout: float = 0.1
    """Share of samples whose label is replaced by the null class, for guidance."""
    max_snr: float | None = 1.0
    """Cap of the signal-to-noise ratio in the weight of a step of the diffusion; None: all weigh
    the same."""
    base_seed: int = 0
    """Seed of weights, batches and noise; independent of the job's seed."""

    def __post_init__(self) -> None:
        """Refuse values that no pretraining can use."""
        if self.num_steps < 1 or self.batch_size < 1 or self.warmup_steps < 0:
            raise ConfigError(
                "pretraining needs num_steps and batch_size of 1 or more and warmup_steps of 0 or "
                f"more, got {self.num_steps}, {self.batch_size} and {self.warmup_steps}"
            )
        _check_rates("pretrain", self.learning_rate, self.label_dropout)
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"pretrain.ema_decay must be in [0, 1), got {self.ema_decay}")
        if self.max_snr is not None and not 0 < self.max_snr < math.inf:
            raise ConfigError(
                f"pretrain.max_snr must be a number above 0, or null for none, got {self.max_snr}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneConfig:
    """DiffFit with minimax memories (Gu et al. 2024, Eq. 3-5; docs/method.md)."""

    enabled: bool = True
    """Off: the base samples as it is."""
    preset: MinimaxPreset = "default"
    """Where the next five values came from; kept for the record."""
    representativeness_weight: float = 0.002
    """lambda_r of Eq. 5."""
    diversity_weight: float = 0.08
    """lambda_d of Eq. 5."""
    reduction: Literal["per_sample", "scalar"] = "per_sample"
    """One extreme similarity per sample (the paper) or per class in the batch (released code)."""
    prediction: Literal["x0", "noisy_minus_eps"] = "x0"
    """The predicted embedding: the x0 estimate (released code) or z_t - eps (Algorithm 1)."""
    max_timestep: int = 900
    """The criteria see samples with t below this only; 1000 for all."""
    ema_decay: float | None = None
    """Decay of the averaged adapter; None: fits the length of the run."""
    variance_loss: bool = False
    """Add the variational bound for bases that predict their variance (released code)."""
    memory_size: int = 64
    """Entries per class in each memory, first in, first out."""
    num_steps: int = 200
    """Optimiser steps for each group of classes."""
    batch_size: int = 64
    """Latents a step."""
    learning_rate: float = 1e-3
    """Of AdamW, constant, without weight decay."""
    label_dropout: float = 0.1
    """Share of samples whose label is replaced by the null class, once per sample."""
    classes_per_group: int = 20
    """At most this many classes share an adapter."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision of `accelerate`."""
    guard_interval: int = 100
    """Steps between two fidelity checks; 0: none between the first and the last."""
    guard_images: int = 64
    """Samples of a fidelity check, spread over the classes: at least one of each."""
    guard_steps: int = 8
    """Sampler steps of those samples."""
    guard_floor: float = 0.5
    """The run stops where fidelity falls below this share of the base's own fidelity."""

    def __post_init__(self) -> None:
        """Refuse values that no run can use."""
        if self.num_steps < 1 or self.batch_size < 1 or self.memory_size < 1:
            raise ConfigError(
                "fine-tuning needs num_steps, batch_size and memory_size of 1 or more"
            )
        if self.guard_images < 1 or self.guard_steps < 1:
            raise ConfigError(
                "finetune.guard_images and finetune.guard_steps must be 1 or more, got "
                f"{self.guard_images} and {self.guard_steps}"
            )
        if not 1 <= self.classes_per_group <= 20:
            raise ConfigError(f"classes_per_group must be 1 to 20, got {self.classes_per_group}")
        if not 0 < self.max_timestep <= 1000:
            raise ConfigError(f"max_timestep must be in (0, 1000], got {self.max_timestep}")
        _check_rates("finetune", self.learning_rate, self.label_dropout)
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ConfigError(f"finetune.ema_decay must be in [0, 1), got {self.ema_decay}")


def check_precision(precision: str, device: str) -> None:
    """Refuse half precision where nothing computes in it.

    Raises:
        ConfigError: If fp16 was asked for and the device, `cpu` or `cuda`, lacks it.
    """
    if precision == "fp16" and device == "cpu":
        raise ConfigError("precision fp16 needs a GPU, got a CPU: use no or bf16")


def _check_rates(part: str, learning_rate: float, label_dropout: float) -> None:
    """Raise ConfigError unless both rates can be used."""
    if not 0 < learning_rate < float("inf"):
        raise ConfigError(f"{part}.learning_rate must be above 0, got {learning_rate}")
    if not 0 <= label_dropout < 1:
        raise ConfigError(f"{part}.label_dropout must be in [0, 1), got {label_dropout}")


def with_preset(config: FinetuneConfig, preset: MinimaxPreset, kind: BaseKind) -> FinetuneConfig:
    """Return `config` with the minimax values of a named preset for this kind of base.

    `reference` is the released code, `printed` the paper to the letter, `default` ours: the
    published weights for latent DiTs; ten times the diversity for small pixel bases, where it needs
    a lower `max_timestep` (at 970 it tore the samples apart: docs/method.md); above 16 px a job
    takes the published weight for these too (`generator.defaults`).
    """
    if preset == "reference":
        return replace(
            config, preset=preset, representativeness_weight=0.002, diversity_weight=0.008,
            reduction="scalar", prediction="x0", max_timestep=1000, ema_decay=0.9999,
            variance_loss=True,
        )  # fmt: skip
    if preset == "printed":
        return replace(
            config, preset=preset, representativeness_weight=0.002, diversity_weight=0.008,
            reduction="per_sample", prediction="noisy_minus_eps", max_timestep=1000,
            ema_decay=0.0, variance_loss=False,
        )  # fmt: skip
    if preset == "default":
        return replace(
            config, preset=preset, representativeness_weight=0.002,
            diversity_weight=0.08 if kind == "pixel" else 0.008, reduction="per_sample",
            prediction="x0", max_timestep=900 if kind == "pixel" else 970, ema_decay=None,
            variance_loss=False,
        )  # fmt: skip
    raise ConfigError(f"minimax preset must be default, reference or printed, got {preset!r}")
