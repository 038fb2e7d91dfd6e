"""Default values that depend on the data, the base and the machine; the one place for each.

The numbers come from docs/method.md and from `benchmarks/`, chosen on validation splits only.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

from finetune.config import BaseKind, FinetuneConfig, with_preset
from finetune.groups import class_groups

TINY_PX = 16
"""Up to here a network of two blocks does, all is quick, and steps are timed within a moment."""
LARGER_PIXEL_DIVERSITY = 0.008
"""lambda_d of pixel bases above `TINY_PX`, as published: ten times that, which spreads the digits'
samples, tears MNIST's apart (minimax_terms_mnist.json)."""
SMOKE_NETWORK = "convnet-d2-w8"
"""What judges and matches images above 16 px in a smoke run on a CPU."""


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
    pictures_per_image: int = 1
    device: str = "cpu"
    is_digits: bool = False


def default_values(situation: Situation) -> dict[str, Any]:
    """Return the configuration, as nested dicts, that a user's own values are laid over."""
    values = _full_values(situation)
    if situation.preset == "smoke":
        for part, changes in _smoke_values(situation).items():
            values[part] = {**values.get(part, {}), **changes}
    if situation.pictures_per_image > 1:  # something is left to choose for packed images, too
        oversample = values["generate"]["oversample"]
        values["generate"]["oversample"] = max(oversample, 2 * situation.pictures_per_image)
    return values


def default_network(image_size: int, device: str = "cpu") -> str:
    """Return the classifier that judges and matches images of this size.

    One more block each time the size doubles; narrow on a CPU, where it is most of the time.
    """
    if image_size <= TINY_PX:
        # on validation, max pooling and group norm beat the published pair at 8 px (docs/method.md)
        return "convnet-d2-w32-group-max"
    depth = min(6, (image_size - 1).bit_length() - 2)  # 32 px: 3, 64: 4, 128: 5, 256: 6
    return f"convnet-d{depth}-w{32 if image_size > 32 and device == 'cpu' else 64}"


def default_batch(batch_size: int, image_size: int, device: str = "cpu") -> int:
    """Return a classifier's batch: as asked for small images, fewer large ones, at least 32.

    128 images of 64 px on a CPU; activations of a ConvNet are then about 1 GB.
    """
    pixels = 2**19 if device == "cpu" else 2**23
    return min(batch_size, max(32, pixels // image_size**2))


def _refine_sizes(situation: Situation) -> dict[str, Any]:
    """Return how many images refinement holds at once: their number falls as they grow."""
    pixels = situation.image_size**2
    small = pixels <= 32**2 or situation.device != "cpu"
    reals = 64 if small else max(16, 2**17 // pixels)
    at_once = 2**22 if situation.device == "cpu" else 2**25
    pictures = situation.images_per_class * situation.pictures_per_image
    per_class = (reals + pictures) * pixels
    return {"reals_per_class": reals, "classes_per_step": max(1, min(20, at_once // per_class))}


def default_threads(num_cores: int, image_size: int) -> int:
    """Return threads of a torch operation: one for tiny images, whose operations are too short.

    On 8x8 images a second thread gains a fifth on an idle machine and loses far more on a busy one.
    """
    return 1 if image_size <= TINY_PX else min(num_cores, 8)


GUARD_IPC = 10
"""The guard of fine-tuning samples with the guidance of so many images per class: jobs share
adapters."""


def judge_steps(preset: str) -> int:
    """Return the training steps of the judge of fidelity; few, so that a base is rarely redone."""
    return 40 if preset == "smoke" else 250


def default_guidance(kind: BaseKind, images_per_class: int) -> float:
    """Return the guidance scale: it must fall as images per class rise (docs/method.md).

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


def default_precision(situation: Situation) -> Literal["no", "bf16"]:
    """Return the precision of matrix products: half for large networks on a GPU."""
    return "bf16" if situation.kind == "latent" and situation.device == "cuda" else "no"


def _full_values(situation: Situation) -> dict[str, Any]:
    """Return the values of the preset `default`."""
    ipc, size, device = situation.images_per_class, situation.image_size, situation.device
    network = default_network(size, device)
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
        "device": situation.device,
        "base": {"pretrain": _pretrain_values(situation)},
        "finetune": _finetune_values(situation),
        "generate": {
            "num_steps": 15 if pixel else 20,
            "guidance_scale": default_guidance(situation.kind, ipc),
            "oversample": default_oversample(ipc) if pixel else 2,
            "batch_size": 64 if pixel else 16 if device == "cpu" else 32,
            "precision": default_precision(situation),
        },
        "proxy": {"network": network, "batch_size": default_batch(256, size, device)},
        "refine": _refine_values(ipc, size) | _refine_sizes(situation),
        "evaluate": {
            "student": {
                "network": network,
                "batch_size": default_batch(128, size, device),
                "augmentation": augmentation,
            }
        },
    }
    if not situation.is_digits:
        values["evaluate"]["student"]["num_steps"] = 400
    return values


def _pretrain_values(situation: Situation) -> dict[str, Any]:
    """Return how long a pixel base is trained, and how fast."""
    if situation.image_size <= TINY_PX:
        return {}  # those of the class (base_recipe.json)
    return {"num_steps": 4000, "learning_rate": 4e-3}


def _refine_values(images_per_class: int, image_size: int) -> dict[str, Any]:
    """Return how far images move, and what they match.

    Few images have to stand for much, so they move further. Better proxies pay (97.1 -> 97.6 % on
    validation folds of the digits) where they cost little, and proxies of all ages up to theirs are
    as good for two thirds of the time (refine_choice.json); at 28 px DM in untrained networks came
    within 0.2 points of clusters in trained ones on held-out folds, in half the time
    (refine_choice_mnist.json).
    """
    is_tiny = image_size <= TINY_PX
    values: dict[str, Any] = {"youngest_proxy": 0.1} if is_tiny else {}
    if not is_tiny and image_size <= 32:
        values = {"objective": "dm", "robust": False}
    if images_per_class > 3:
        return values | ({"proxy_steps": 120} if is_tiny else {})
    attempts = 3 if is_tiny else 1  # on larger ones an attempt takes minutes
    return values | {
        "num_steps": 240, "learning_rate": 0.3, "steps_per_proxy": 24, "num_attempts": attempts,
    }  # fmt: skip


def _finetune_values(situation: Situation) -> dict[str, Any]:
    """Return the fine-tuning values of this kind of base.

    On the digits batches of 32 end where those of 64 do (minimax_terms.json), in half the time.
    """
    preset = with_preset(FinetuneConfig(), situation.minimax_preset, situation.kind)
    names = (
        "preset", "representativeness_weight", "diversity_weight", "reduction", "prediction",
        "max_timestep", "ema_decay", "variance_loss",
    )  # fmt: skip
    values: dict[str, Any] = {name: getattr(preset, name) for name in names}
    if situation.kind == "pixel" and situation.image_size <= TINY_PX:
        values["batch_size"] = 32
    elif situation.kind == "pixel":
        values["diversity_weight"] = min(preset.diversity_weight, LARGER_PIXEL_DIVERSITY)
    if situation.kind == "latent":
        # 8 epochs of batch 8 as published, of each group of classes; at most its 12,000 steps
        values["batch_size"] = 8
        groups = len(class_groups(situation.num_classes, preset.classes_per_group))
        values["num_steps"] = max(1, min(12_000, round(situation.num_train / groups)))
        values["guard_interval"] = 1000
        values["precision"] = default_precision(situation)
    return values


def _smoke_values(situation: Situation) -> dict[str, Any]:
    """Return what `smoke` changes: every stage runs, on a sliver, a thinner one of large images."""
    values = _smoke_of_small_images(situation)
    if situation.image_size <= TINY_PX or situation.device != "cpu":
        return values
    network = SMOKE_NETWORK
    # the guard's samples cost more than the steps, so it looks at few and only at both ends
    values["finetune"] |= {
        "num_steps": 2, "guard_interval": 0, "guard_images": 10, "guard_steps": 2,
    }  # fmt: skip
    values["proxy"] |= {"network": network, "batch_size": 64, "num_steps": 15}
    values["refine"] |= {"num_steps": 4, "steps_per_proxy": 2, "proxy_steps": 5}
    values["label"]["num_steps"] = 10
    values["evaluate"]["student"] |= {"network": network, "batch_size": 32, "num_steps": 10}
    if situation.kind == "pixel":
        values["base"]["pretrain"] = {"num_steps": 8, "warmup_steps": 2, "batch_size": 8}
        values["generate"] |= {"num_steps": 2, "guidance_scale": 1.0}
    return values


def _smoke_of_small_images(situation: Situation) -> dict[str, Any]:
    """Return what `smoke` changes for images of up to 16 px."""
    network = default_network(situation.image_size, situation.device)
    return {
        "base": {"pretrain": {"num_steps": 60, "warmup_steps": 10}},
        "finetune": {"num_steps": 6, "batch_size": 8, "guard_interval": 3},
        "generate": {"num_steps": 4, "oversample": 2, "fidelity_floor": 0.0},
        "proxy": {"network": network, "num_steps": 40},
        "refine": {
            "start": "generated",
            "num_steps": 8,
            "steps_per_proxy": 4,
            "proxy_steps": 10,
            "num_attempts": 1,
        },
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
