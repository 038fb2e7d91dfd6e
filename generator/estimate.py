"""What a job will take on a machine: time by stage, memory, disk, download, and why we think so.

Each stage is counted in units of work (`work_of`), which `generator.speeds` prices. The same count
at nominal prices keeps the evaluation to a third of the job (`limit_evaluation`).
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillery.errors import ModelError
from distillery.files import read_json
from distillery.machine import Machine, use_threads
from distillery.models.config import (
    PUBLISHED_BASES,
    PixelDiTConfig,
    dit_num_parameters,
)
from generator import speeds as pricing
from generator.config import DistillConfig
from generator.speeds import Speeds, StepCost

if TYPE_CHECKING:
    from generator.plan import Look, Plan

EVALUATION_SHARE = 1 / 3
"""At most this much of a default job is evaluation."""
NUM_SHIFTS = 4
"""Versions of the test images that a student sees: clean, noise, blur, inverted."""
DIFFFIT_SHARE = 0.7
"""Of a full training step: no weight gradients but the adapter's (measured on digits)."""
SD_VAE: Mapping[str, Any] = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2}
"""The autoencoder of the published bases."""
SD_VAE_BYTES = 335e6
PROCESS_BYTES = 0.6e9
"""Python with torch, diffusers and the networks of the evaluation (measured: digits)."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseDescription:
    """The networks of a base, as far as cost depends on them."""

    kind: str
    transformer: Mapping[str, Any]
    vae: Mapping[str, Any] | None
    is_here: bool
    """Off: its weights must be fetched."""


def describe_base(config: DistillConfig, num_classes: int) -> BaseDescription:
    """Return the networks of a job's base, from its JSON files or what is published of it."""
    assert config.image_size is not None and config.channels is not None  # the plan filled them in
    reference = config.base.reference
    if reference == "pixel":
        dit = PixelDiTConfig.for_images(config.image_size, config.channels, num_classes)
        return BaseDescription(
            kind="pixel", transformer=dit.transformer_config(), vae=None, is_here=True
        )
    from generator.bases import base_facts

    try:
        facts = base_facts(reference, revision=config.base.revision, allow_download=False)
    except ModelError:
        if reference not in PUBLISHED_BASES:
            raise
        published = PUBLISHED_BASES[reference].transformer
        return BaseDescription(kind="latent", transformer=published, vae=SD_VAE, is_here=False)
    vae = facts.folder / "vae" / "config.json"
    return BaseDescription(
        kind=facts.kind,
        transformer=read_json(facts.folder / "transformer" / "config.json"),
        vae=read_json(vae) if facts.kind == "latent" else None,
        is_here=True,
    )


def estimate(
    plan: "Plan",
    machine: Machine,
    *,
    cache: Path,
    folder: Path | None = None,
    speeds: Speeds | None = None,
) -> Estimate:
    """Return what a planned job will take.

    Args:
        plan: The resolved job.
        machine: Where it will run.
        cache: Folder of shared stages; those that are complete cost nothing.
        folder: Of the job, whose own complete stages cost nothing either.
        speeds: Prices of the units of work; None: measured now, within about 1.5 s.
    """
    config, look = plan.config, plan.look
    base = describe_base(config, len(look.class_names))
    speeds = speeds or measure_speeds(config, base, len(look.class_names), machine)
    seconds = work_of(config, look, base, speeds)
    done = finished_stages(config, cache, folder)
    stages = tuple(_stage(name, value, speeds, name in done) for name, value in seconds.items())
    memory, memory_basis = memory_of(config, look, base)
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
    use_threads(config.num_threads)
    network, size, channels = config.evaluate.student.network, config.image_size, config.channels
    threads = f"{config.num_threads} thread" + "s" * (config.num_threads > 1)
    if base.kind == "pixel":
        dit = PixelDiTConfig.for_images(size, channels, num_classes)
        train, forward = pricing.measure_dit(dit, config.base.pretrain.batch_size)
        spread, basis = 1.5, f"steps of this very network, timed now on {threads}"
        encode = decode = 0.0
    else:
        rate = pricing.measure_matmul_flops("cuda" if machine.gpu else "cpu") * 0.6
        analytic = pricing.nominal_speeds(base.transformer, base.vae, network, size, channels, rate)
        train, forward = analytic.dit_train, analytic.dit_forward
        encode, decode = analytic.encode_s, analytic.decode_s
        spread = 2.0
        basis = f"operations over 60 % of the measured matmul rate, {rate / 0.6e9:.0f} GFLOP/s"
    classifier = pricing.measure_classifier(
        network, size, channels, num_classes, config.evaluate.student.augmentation
    )
    return Speeds(
        dit_train=train, dit_forward=forward, classifier=classifier, encode_s=encode,
        decode_s=decode, basis=basis, spread=spread,
        classifier_basis=f"steps of {network}, timed now on {threads}",
    )  # fmt: skip


def work_of(
    config: DistillConfig, look: "Look", base: BaseDescription, speeds: Speeds
) -> dict[str, float]:
    """Return the seconds of every stage with nothing cached, in order."""
    ipc, num_classes = config.images_per_class, len(look.class_names)
    pixel = config.base.reference == "pixel"
    teacher = speeds.classifier.of(128)
    guided = 2 if config.generate.guidance_scale != 1 else 1
    flips = 2 if config.horizontal_flip else 1
    assert config.generate.oversample is not None
    pool = num_classes * ipc * (config.generate.oversample + config.evaluate.controls)
    per_image = config.generate.num_steps * guided * _per_image(speeds.dit_forward, 64)
    pretrain = config.base.pretrain
    load = 0.0 if pixel else 4 * dit_num_parameters(base.transformer) / 0.5e9
    train = pretrain.num_steps * speeds.dit_train.of(pretrain.batch_size) if pixel else load
    return {
        "prepare": 0.05 + look.num_images * (1e-5 + 4e-8 * look.survey.native_size**2),
        "base": train + config.proxy.num_steps * teacher,
        "encode": look.num_train * flips * speeds.encode_s,
        "finetune": _finetune(config, num_classes, speeds) if config.finetune.enabled else 0.0,
        "generate": 0.2 + load + pool * (per_image + speeds.decode_s),
        "score": _proxy(config, config.proxy.num_steps, speeds) + 0.5,
        "refine": _refine(config, num_classes, speeds) if config.refine.enabled else 0.0,
        "label": config.label.num_steps * teacher * config.label.enabled,
        "evaluate": _evaluate(config, look, speeds),
        "bundle": 1.0 + 2e-3 * num_classes * ipc,
    }


def _per_image(cost: StepCost, batch_size: int) -> float:
    return cost.of(batch_size) / batch_size


def _finetune(config: DistillConfig, num_classes: int, speeds: Speeds) -> float:
    """Return seconds of the adapters, with the fidelity guard's samples."""
    tune = config.finetune
    groups = math.ceil(num_classes / tune.classes_per_group)
    guided = 2 if (config.generate.guidance_scale or 1) != 1 else 1
    checks = 2 + (tune.num_steps // tune.guard_interval if tune.guard_interval else 0)
    guard = checks * 8 * speeds.dit_forward.of(64 * guided)
    train = DIFFFIT_SHARE * tune.num_steps * speeds.dit_train.of(tune.batch_size)
    return groups * (train + guard)


def _proxy(config: DistillConfig, num_steps: int, speeds: Speeds) -> float:
    """Return seconds of a proxy; the CVaR terms add about a third to a step."""
    return 1.3 * num_steps * speeds.classifier.of(config.proxy.batch_size)


def _refine(config: DistillConfig, num_classes: int, speeds: Speeds) -> float:
    """Return seconds of refining one set: proxies, then steps over real and synthetic images."""
    refine = config.refine
    proxies = math.ceil(refine.num_steps / refine.steps_per_proxy)
    # real images run forward only, a third of a training step; synthetic ones back to the pixels
    images = num_classes * (refine.reals_per_class / 3 + config.images_per_class)
    steps = refine.num_steps * speeds.classifier.of(1) + refine.num_steps * (
        images * speeds.classifier.image_s
    )
    return proxies * _proxy(config, refine.proxy_steps, speeds) + steps


def _evaluate(config: DistillConfig, look: "Look", speeds: Speeds) -> float:
    """Return seconds of all students of all sets, and of the controls that must be made first."""
    evaluate, num_classes = config.evaluate, len(look.class_names)
    ipc, student = config.images_per_class, config.evaluate.student
    sets = 1 + config.label.enabled + evaluate.full_data
    controls = 0.0
    if evaluate.controls:
        sets += 4 + 2 * config.refine.enabled + (ipc == 1)
        controls = _refine(config, num_classes, speeds) if config.refine.enabled else 0.0
    batch = min(student.batch_size, num_classes * ipc)
    num_test = look.num_images - look.num_train / (1 - config.data.validation_fraction)
    test = NUM_SHIFTS * num_test * speeds.classifier.image_s / 3
    training = student.num_steps * speeds.classifier.of(batch)
    return controls + sets * evaluate.num_seeds * (training + test)


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
    from generator.pipeline import STAGES
    from generator.stage import RECORD, Finished, stage_key

    done: dict[str, Finished] = {}
    for stage in STAGES:
        root = cache if stage.is_shared else folder and folder / "stages"
        if root is None or any(name not in done for name in stage.reads):
            continue
        place = root / f"{stage.name}-{stage_key(stage, config, done)[:16]}"
        if (place / RECORD).exists():
            done[stage.name] = Finished(stage.name, place, read_json(place / RECORD), True)
    return set(done)


def memory_of(config: DistillConfig, look: "Look", base: BaseDescription) -> tuple[float, str]:
    """Return peak bytes and what they are, by count of the largest things held at once."""
    assert config.image_size is not None and config.channels is not None
    image = config.channels * config.image_size**2
    images = 2 * 4.0 * look.num_images * image  # float copies of splits and test views
    if base.kind == "pixel":
        dit = base.transformer
        tokens = (config.image_size // int(dit["patch_size"])) ** 2
        width = int(dit["num_attention_heads"]) * int(dit["attention_head_dim"])
        batch = max(config.base.pretrain.batch_size, config.finetune.batch_size)
        activations = 4.0 * 40 * batch * tokens * width * int(dit["num_layers"])
        return PROCESS_BYTES + images + activations, "process, images and activations, counted"
    weights = 4.0 * dit_num_parameters(base.transformer) + SD_VAE_BYTES
    activations = 4.0 * _activation_floats(base.transformer) * config.finetune.batch_size
    basis = "weights and the activations of a fine-tuning batch, counted"
    return PROCESS_BYTES + images + weights + activations, basis


def _activation_floats(dit: Mapping[str, Any]) -> float:
    """Return numbers kept for the backward pass of one image: about 40 a token, width and layer."""
    width = dit.get("num_attention_heads", 16) * dit.get("attention_head_dim", 72)
    tokens = (dit.get("sample_size", 32) // dit.get("patch_size", 2)) ** 2
    return 40.0 * tokens * width * dit.get("num_layers", 28)


def _disk(
    config: DistillConfig, look: "Look", base: BaseDescription, done: set[str]
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


def limit_evaluation(plan: "Plan", request: Mapping[str, Any]) -> "Plan":
    """Return the plan with an evaluation of at most a third of the job, as far as that is open.

    First fewer students (not below 2: one says nothing of the noise), then no controls, and with
    them gone as many students as before, then fewer, down to one. What the user
    set stays, and so does the preset `smoke`, which must go through everything. The prices are
    nominal and nothing counts as cached: the same request gives the same job whatever the load.
    """
    if plan.config.preset == "smoke":
        return plan
    base = describe_base(plan.config, len(plan.look.class_names))
    asked = request.get("evaluate", {})
    for change, text in _reductions(plan.config, asked):
        share = evaluation_share(plan.config, plan.look, base)
        if share <= EVALUATION_SHARE:
            break
        plan = _reduce(plan, change, text, share)
    return plan


def evaluation_share(config: DistillConfig, look: "Look", base: BaseDescription) -> float:
    """Return the evaluation's share of a job with nothing cached, at nominal prices."""
    assert config.image_size is not None and config.channels is not None
    nominal = pricing.nominal_speeds(
        base.transformer, base.vae, config.evaluate.student.network, config.image_size,
        config.channels,
    )  # fmt: skip
    seconds = work_of(config, look, base, nominal)
    return seconds["evaluate"] / sum(seconds.values())


def _reductions(
    config: DistillConfig, asked: Mapping[str, Any]
) -> list[tuple[dict[str, Any], str]]:
    """Return the changes that may be tried, in order; those the user spoke about are left out."""
    seeds, controls = config.evaluate.num_seeds, config.evaluate.controls
    fewer = range(seeds - 1, 0, -1) if "num_seeds" not in asked else range(0)
    found: list[tuple[dict[str, Any], str]] = []
    if controls:
        found += [({"num_seeds": n}, _students(n)) for n in fewer if n >= 2]
    if controls and "controls" not in asked:
        found.append(({"num_seeds": seeds, "controls": False}, "no controls"))
    without = not controls or "controls" not in asked
    kept = ", no controls" * controls
    found += [({"num_seeds": n}, _students(n) + kept) for n in fewer if without or n < 2]
    return found


def _students(count: int) -> str:
    return f"{count} student{'s' * (count > 1)} a set"


def _reduce(plan: "Plan", change: Mapping[str, Any], text: str, share: float) -> "Plan":
    """Return the plan with one change of the evaluation, and the decision that says so."""
    from generator.plan import Decision

    others = tuple(d for d in plan.decisions if d.what != "evaluation")
    reason = f"more would be {100 * share:.0f} % of the job; --students and --controls overrule it"
    config = replace(plan.config, evaluate=replace(plan.config.evaluate, **change))
    return replace(plan, config=config, decisions=(*others, Decision("evaluation", text, reason)))
