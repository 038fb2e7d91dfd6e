"""Default values that depend on the data, the base and the machine; the one place for each.

The numbers come from prototype.md and from `benchmarks/`, chosen on validation splits only.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

from finetune.config import BaseKind, FinetuneConfig, with_preset


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """What the defaults depend on."""

    kind: BaseKind
    preset: Literal["default", "smoke"]
    minimax_preset: Literal["default", "reference", "printed"]
    image_size: int
    channels: int
    num_classes: int
    num_train: int
    images_per_class: int
    num_threads: int
    is_digits: bool = False


def default_values(situation: Situation) -> dict[str, Any]:
    """Return the configuration, as nested dicts, that a user's own values are laid over."""
    values = _full_values(situation)
    if situation.preset == "smoke":
        for part, changes in _smoke_values(situation).items():
            values[part] = {**values.get(part, {}), **changes}
    return values


def default_network(image_size: int) -> str:
    """Return the classifier that judges and matches images of this size."""
    if image_size <= 16:
        return "convnet-d2-w32"
    return "convnet-d3-w64" if image_size <= 64 else "convnet-d5-w64"


def default_guidance(kind: BaseKind, images_per_class: int) -> float:
    """Return the guidance scale: it must fall as images per class rise (prototype.md section 7).

    Latent bases keep the published 4.0 at every size until a benchmark shows better.
    """
    if kind == "latent":
        return 4.0
    if images_per_class <= 3:
        return 4.0
    return 1.5 if images_per_class < 50 else 1.0


def default_oversample(images_per_class: int) -> int:
    """Return candidates per image of the result: 30 a class at IPC 1, 50 at 10, 100 at 50."""
    return max(2, math.ceil((25 + 2.5 * images_per_class) / images_per_class))


def _full_values(situation: Situation) -> dict[str, Any]:
    """Return the values of the preset `default`."""
    ipc, network = situation.images_per_class, default_network(situation.image_size)
    pixel = situation.kind == "pixel"
    natural = situation.channels == 3
    augmentation = "dsa" if natural else "affine"
    values: dict[str, Any] = {
        "images_per_class": ipc,
        "preset": situation.preset,
        "image_size": situation.image_size,
        "channels": situation.channels,
        "horizontal_flip": natural,
        "num_threads": situation.num_threads,
        "base": {"pretrain": {"num_steps": 2400 if situation.image_size <= 16 else 4000}},
        "finetune": _finetune_values(situation),
        "generate": {
            "num_steps": 15 if pixel else 20,
            "guidance_scale": default_guidance(situation.kind, ipc),
            "oversample": default_oversample(ipc) if pixel else 2,
            "batch_size": 64 if pixel else 16,
        },
        "proxy": {"network": network},
        "refine": {},
        "evaluate": {"student": {"network": network, "augmentation": augmentation}},
    }
    if not situation.is_digits:
        values["evaluate"]["student"]["num_steps"] = 400
    return values


def _finetune_values(situation: Situation) -> dict[str, Any]:
    """Return the fine-tuning values of this kind of base."""
    preset = with_preset(FinetuneConfig(), situation.minimax_preset, situation.kind)
    names = (
        "preset", "representativeness_weight", "diversity_weight", "reduction", "prediction",
        "max_timestep", "ema_decay", "variance_loss",
    )  # fmt: skip
    values: dict[str, Any] = {name: getattr(preset, name) for name in names}
    if situation.kind == "latent":
        # 8 epochs of batch 8 as published; at most its 12,000 steps
        values["batch_size"] = 8
        group = min(situation.num_classes, 20) / situation.num_classes
        values["num_steps"] = max(1, min(12_000, round(situation.num_train * group)))
        values["guard_interval"] = 1000
    return values


def _smoke_values(situation: Situation) -> dict[str, Any]:
    """Return what `smoke` changes: every stage runs, on a sliver."""
    network = default_network(situation.image_size)
    return {
        "base": {"pretrain": {"num_steps": 60, "warmup_steps": 10}},
        "finetune": {"num_steps": 6, "batch_size": 8, "guard_interval": 3},
        "generate": {"num_steps": 4, "oversample": 2, "fidelity_floor": 0.0},
        "proxy": {"network": network, "num_steps": 40},
        "refine": {"num_steps": 8, "steps_per_proxy": 4, "proxy_steps": 10},
        "label": {"num_steps": 30},
        "evaluate": {
            "num_seeds": 1,
            "student": {
                "network": network,
                "num_steps": 30,
                "augmentation": "dsa" if situation.channels == 3 else "affine",
            },
        },
    }
