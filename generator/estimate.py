"""What a job will take on a machine: time by stage, memory, disk, download, and why we think so.

`generator.work` counts the work, `generator.speeds` prices it; here are the ranges, what is in the
cache already, and the resources beside time.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from distillery.machine import Machine, use_device, use_threads
from distillery.models.config import PixelDiTConfig, dit_num_parameters
from generator import speeds as pricing
from generator.config import DistillConfig
from generator.defaults import TINY_PX
from generator.planned import Look, Plan
from generator.speeds import Speeds
from generator.work import BaseDescription, describe_base, nominal_prices, work_of

SD_VAE_BYTES = 335e6
"""Weights of the autoencoder of the published bases."""
PROCESS_BYTES = 0.6e9
"""Python with torch, diffusers and the networks of the evaluation (measured: digits)."""

SHARE_BESIDE_AHEAD = {"score": 0.1, "refine": 0.5, "label": 0.1}
"""What is left of a stage where proxies, real start and teacher are made ahead (measured: digits;
students of real images are told by the evaluation, and keep both cores busy as before)."""


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """Expected time of one stage."""

    name: str
    seconds: float
    low_s: float
    high_s: float
    basis: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """Expected cost of a job."""

    stages: tuple[StageEstimate, ...]
    memory_bytes: float
    memory_basis: str
    disk_bytes: float
    disk_basis: str
    download_bytes: float
    licence: str | None
    warnings: tuple[str, ...]
    """What does not fit this machine."""

    @property
    def seconds(self) -> float:
        """Expected time of the whole job."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def low_s(self) -> float:
        """Time of a lucky run."""
        return sum(stage.low_s for stage in self.stages)

    @property
    def high_s(self) -> float:
        """Time of an unlucky run."""
        return sum(stage.high_s for stage in self.stages)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self) | {
            "stages": [asdict(stage) for stage in self.stages],
            "warnings": list(self.warnings),
            "seconds": self.seconds,
            "low_s": self.low_s,
            "high_s": self.high_s,
        }


def estimate(
    plan: Plan,
    machine: Machine,
    *,
    cache: Path,
    folder: Path | None = None,
    speeds: Speeds | None = None,
    works_ahead: bool = False,
) -> Estimate:
    """Return what a planned job will take.

    Args:
        plan: The resolved job.
        machine: Where it will run.
        cache: Folder of shared stages; those that are complete cost nothing.
        folder: Of the job, whose own complete stages cost nothing either.
        speeds: Prices of the units of work; None: measured now, within about 1.5 s, or the nominal
            ones where that would be a tenth of the job: a smoke run of images above 16 px on a CPU.
        works_ahead: Whether another process does what needs real images alone (`generator.ahead`).
    """
    config, look = plan.config, plan.look
    base = describe_base(config, len(look.class_names))
    speeds = speeds or measure_speeds(config, base, len(look.class_names), machine)
    seconds = work_of(config, look, base, speeds)
    if works_ahead:
        seconds |= {name: share * seconds[name] for name, share in SHARE_BESIDE_AHEAD.items()}
    done = finished_stages(config, cache, folder)
    stages = tuple(_stage(name, value, speeds, name in done) for name, value in seconds.items())
    memory, memory_basis = memory_of(config, look, base)
    if works_ahead:
        memory, memory_basis = memory + PROCESS_BYTES, f"{memory_basis}, and a second process"
    disk, disk_basis = _disk(config, look, base, done)
    download = 0.0 if base.is_here else 4.0 * dit_num_parameters(base.transformer) + SD_VAE_BYTES
    return Estimate(
        stages=stages, memory_bytes=memory, memory_basis=memory_basis,
        disk_bytes=disk + download, disk_basis=disk_basis, download_bytes=download,
        licence=plan.licence, warnings=_warnings(machine, memory, base),
    )  # fmt: skip


def measure_speeds(
    config: DistillConfig, base: BaseDescription, num_classes: int, machine: Machine
) -> Speeds:
    """Return this machine's prices, with the job's own number of threads."""
    assert config.image_size is not None and config.channels is not None
    assert config.num_threads is not None
    network, size, channels = config.evaluate.student.network, config.image_size, config.channels
    if config.preset == "smoke" and config.device == "cpu" and size > TINY_PX:
        return nominal_prices(config, base)
    device = config.device or "cpu"
    use_threads(config.num_threads)
    use_device(device)  # timed as a job computes
    threads = f"{config.num_threads} thread" + "s" * (config.num_threads > 1)
    where = threads if device == "cpu" else "the GPU"
    classifier = pricing.measure_classifier(
        network, size, channels, num_classes, config.evaluate.student.augmentation, device
    )
    classifier_basis = f"steps of {network}, timed now on {where}"
    if base.kind == "latent":
        rate = pricing.measure_matmul_flops(device)
        basis = f"operations over 60 % of the measured matmul rate, {rate / 1e9:.0f} GFLOP/s"
        analytic = pricing.analytic_speeds(
            base.transformer, base.vae, size, flops_per_s=0.6 * rate, classifier=classifier,
            basis=basis,
        )  # fmt: skip
        return replace(analytic, classifier_basis=classifier_basis)
    dit = PixelDiTConfig.of_transformer(base.transformer)
    is_slow = 3 * dit.flops_per_image() > pricing.CALIBRATION_FLOPS
    if device == "cpu" and is_slow:  # one image alone takes too long
        analytic = pricing.analytic_speeds(
            base.transformer, None, size, flops_per_s=pricing.NOMINAL_DIT_FLOPS,
            classifier=classifier, basis="operations over the rate of a nominal machine",
        )  # fmt: skip
        return replace(analytic, classifier_basis=classifier_basis)
    train, forward = pricing.measure_dit(dit, config.base.pretrain.batch_size, device)
    return Speeds(
        dit_train=train, dit_forward=forward, classifier=classifier, spread=1.5,
        basis=f"steps of this very network, timed now on {where}",
        classifier_basis=classifier_basis,
    )  # fmt: skip


def _stage(name: str, seconds: float, speeds: Speeds, is_done: bool) -> StageEstimate:
    """Return a stage's figure with its range and basis."""
    if is_done:
        return StageEstimate(name, 0.0, 0.0, 0.0, "cached: done before with the same inputs")
    if seconds == 0.0:
        return StageEstimate(name, 0.0, 0.0, 0.0, "nothing to do")
    if name in ("prepare", "bundle"):
        return StageEstimate(name, seconds, seconds / 3, seconds * 3, "number and size of images")
    of_dit = name in ("base", "encode", "finetune", "generate")
    basis = speeds.basis if of_dit else speeds.classifier_basis
    spread = speeds.spread if of_dit else 1.6
    return StageEstimate(name, seconds, seconds / spread, seconds * spread, basis)


def finished_stages(config: DistillConfig, cache: Path, folder: Path | None) -> set[str]:
    """Return the stages of a job that are complete already, in the cache or its own folder."""
    if not cache.is_dir() and folder is None:
        return set()
    # here, because it imports torch
    from generator.pipeline import complete_stages

    return set(complete_stages(config, cache, folder))


def memory_of(config: DistillConfig, look: Look, base: BaseDescription) -> tuple[float, str]:
    """Return peak bytes and what they are, by count of the largest things held at once."""
    assert config.image_size is not None and config.channels is not None
    image = config.channels * config.image_size**2
    images = 4.0 * look.num_images * image  # raw: splits, a copy of one, four views of the test
    if base.kind == "pixel":
        dit = base.transformer
        tokens = (config.image_size // int(dit["patch_size"])) ** 2
        width = int(dit["num_attention_heads"]) * int(dit["attention_head_dim"])
        batch = max(config.base.pretrain.batch_size, config.finetune.batch_size)
        activations = 4.0 * 40 * batch * tokens * width * int(dit["num_layers"])
        return PROCESS_BYTES + images + activations, "process, images and activations, counted"
    basis = "weights and the activations of a fine-tuning batch, counted"
    return PROCESS_BYTES + images + network_bytes(config, base), basis


def network_bytes(
    config: DistillConfig, base: BaseDescription, *, batch_size: int | None = None
) -> float:
    """Return bytes of a latent base and of the activations of a fine-tuning batch, the job's own.

    Args:
        config: The complete configuration of the job.
        base: The networks.
        batch_size: Another batch than the job's.
    """
    weights = 4.0 * dit_num_parameters(base.transformer) + SD_VAE_BYTES
    batch = batch_size or config.finetune.batch_size
    return weights + 4.0 * _activation_floats(base.transformer) * batch


def _activation_floats(dit: Mapping[str, Any]) -> float:
    """Return numbers kept for the backward pass of one image: about 40 a token, width and layer."""
    width = dit.get("num_attention_heads", 16) * dit.get("attention_head_dim", 72)
    tokens = (dit.get("sample_size", 32) // dit.get("patch_size", 2)) ** 2
    return 40.0 * tokens * width * dit.get("num_layers", 28)


def _disk(
    config: DistillConfig, look: Look, base: BaseDescription, done: set[str]
) -> tuple[float, str]:
    """Return bytes that the job writes to the cache and its folder."""
    assert config.image_size is not None and config.channels is not None
    assert config.generate.oversample is not None
    image = config.channels * config.image_size**2
    pool = len(look.class_names) * config.images_per_class * (config.generate.oversample + 6)
    size = 2e6 + pool * image * 2.0
    if "prepare" not in done:
        size += look.num_images * image
    if base.kind == "pixel" and "base" not in done:
        size += 20.0 * dit_num_parameters(base.transformer)  # weights, and a checkpoint of four
    if base.kind == "latent" and "encode" not in done:
        latent = int(base.transformer.get("sample_size", 32)) ** 2
        flips = 2 if config.horizontal_flip else 1
        size += look.num_train * flips * 2 * 2 * latent * int(base.transformer["in_channels"])
    return size, "prepared images, weights, latents, candidates, bundle"


def _warnings(machine: Machine, memory: float, base: BaseDescription) -> tuple[str, ...]:
    """Return what does not fit."""
    has = machine.gpu_memory_bytes if machine.gpu and base.kind == "latent" else 0
    has, where = (has, str(machine.gpu)) if has else (machine.memory_bytes, "this machine")
    if memory <= 0.9 * has:
        return ()
    return (
        f"the job needs about {memory / 1e9:.1f} GB of memory and {where} has {has / 1e9:.1f} GB: "
        "lower finetune.batch_size, or choose --base pixel",
    )
