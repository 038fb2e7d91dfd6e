"""A job counted in units of work, and priced: the seconds of every stage.

The units are images through a network; `generator.speeds` has the prices. Only counts that a
configuration and a first look at the data give away are used, so nothing is read or trained.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distillery.errors import ModelError
from distillery.files import read_json
from distillery.machine import available_cores
from distillery.models.config import PUBLISHED_BASES, PixelDiTConfig, dit_num_parameters
from finetune.config import BaseKind
from generator.config import DistillConfig
from generator.defaults import GUARD_IPC, default_guidance, judge_steps
from generator.job_protocol import job_setting, student_steps
from generator.planned import Look
from generator.speeds import Speeds, StepCost, classifier_flops, nominal_speeds
from generator.starts import JUDGES, refined_starts, rivals
from generator.vision import trains_teacher

NUM_SHIFTS = 4
"""Versions of the test images that a student sees: clean, noise, blur, inverted."""
DIFFFIT_SHARE = 0.7
"""Of a full training step: no weight gradients but the adapter's (measured on digits)."""
LOAD_BYTES_PER_S = 0.5e9
"""Of weights, from a disk."""
SD_VAE: Mapping[str, Any] = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2}
"""The autoencoder of the published bases."""


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


def nominal_prices(config: DistillConfig, base: BaseDescription) -> Speeds:
    """Return what a job's networks cost on the nominal machine."""
    assert config.image_size is not None and config.channels is not None  # the plan filled them in
    return nominal_speeds(
        base.transformer, base.vae, config.evaluate.student.network, config.image_size,
        config.channels,
    )  # fmt: skip


def work_of(
    config: DistillConfig, look: Look, base: BaseDescription, speeds: Speeds
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
    load = 0.0 if pixel else 4 * dit_num_parameters(base.transformer) / LOAD_BYTES_PER_S
    train = pretrain.num_steps * speeds.dit_train.of(pretrain.batch_size) if pixel else load
    return {
        "prepare": 0.05 + look.num_images * (1e-5 + 4e-8 * look.survey.native_size**2),
        "base": train + judge_steps(config.preset) * teacher,
        "encode": look.num_train * flips * speeds.encode_s,
        "finetune": _finetune(config, num_classes, speeds) if config.finetune.enabled else 0.0,
        "generate": 0.2 + load + pool * (per_image + speeds.decode_s),
        "score": _proxy(config, config.proxy.num_steps, speeds) + 0.5,
        "refine": _refine(config, num_classes, speeds) + _contest(config, num_classes, speeds),
        "label": config.label.num_steps * teacher * trains_teacher(config),
        "evaluate": _evaluate(config, look, speeds),
        "bundle": 1.0 + 2e-3 * num_classes * ipc,
    }


def works_ahead(config: DistillConfig) -> bool:
    """Say whether another process is to work ahead of a job on this machine (`generator.ahead`).

    A core must be left over, and enough be there to do to start a process for it.
    """
    is_long = config.preset == "default"
    return is_long and config.device == "cpu" and available_cores() >= 2 * (config.num_threads or 1)


def _per_image(cost: StepCost, batch_size: int) -> float:
    return cost.of(batch_size) / batch_size


def _finetune(config: DistillConfig, num_classes: int, speeds: Speeds) -> float:
    """Return seconds of the adapters, with the fidelity guard's samples."""
    tune = config.finetune
    groups = math.ceil(num_classes / tune.classes_per_group)
    kind: BaseKind = "pixel" if config.base.reference == "pixel" else "latent"
    guided = 2 if default_guidance(kind, GUARD_IPC) != 1 else 1
    later = -(-tune.num_steps // tune.guard_interval) if tune.guard_interval else 1
    checks = 1 + later  # before the first step, then every so often and at the end
    guard = checks * tune.guard_steps * speeds.dit_forward.of(tune.guard_images * guided)
    train = DIFFFIT_SHARE * tune.num_steps * speeds.dit_train.of(tune.batch_size)
    return groups * (train + guard)


def _proxy(config: DistillConfig, num_steps: int, speeds: Speeds) -> float:
    """Return seconds of a proxy; the CVaR terms add about a third to a step."""
    return 1.3 * num_steps * speeds.classifier.of(config.proxy.batch_size)


def _refine(config: DistillConfig, num_classes: int, speeds: Speeds) -> float:
    """Return seconds of refining every start: proxies, steps over all images, scores of sets."""
    refine, num_starts = config.refine, len(refined_starts(config))
    # real images run forward only, a third of a training step; synthetic ones back to the pixels
    pictures = config.images_per_class * refine.pictures_per_image
    images = num_classes * (refine.reals_per_class / 3 + pictures)
    steps = refine.num_steps * speeds.classifier.of(1) + refine.num_steps * (
        images * speeds.classifier.image_s
    )
    trainings = refine.num_attempts * _proxy(config, _proxy_steps(config), speeds)
    if refine.objective != "clusters":  # whose proxies serve every start
        trainings *= num_starts
    score = refine.num_students * _student(config, num_classes, speeds)
    moved = refine.num_attempts * (steps + score) + score  # the start is scored too
    return trainings * (num_starts > 0) + num_starts * moved


def _proxy_steps(config: DistillConfig) -> int:
    """Return the training steps of all networks that an attempt looks through.

    DM's are never trained; other published methods train theirs for about as long as ours.
    """
    refine = config.refine
    if refine.objective == "dm" and not (refine.robust and config.proxy.robust):
        return 0
    return sum(refine.proxy_ages)


def _student(config: DistillConfig, num_classes: int, speeds: Speeds) -> float:
    """Return seconds of one student of a whole set."""
    student = config.evaluate.student
    pictures = config.images_per_class * config.refine.pictures_per_image
    return student.num_steps * speeds.classifier.of(min(student.batch_size, num_classes * pictures))


def _contest(config: DistillConfig, num_classes: int, speeds: Speeds) -> float:
    """Return seconds of the further students that two competing starts are judged by."""
    if not config.refine.enabled or len(rivals(config)) < 2:
        return 0.0
    further = max(0, JUDGES - config.refine.num_students)
    return 2 * further * _student(config, num_classes, speeds)


def _evaluate(config: DistillConfig, look: Look, speeds: Speeds) -> float:
    """Return seconds of all students of all sets."""
    evaluate, num_classes = config.evaluate, len(look.class_names)
    ipc, student = config.images_per_class, config.evaluate.student
    sets = 1 + config.label.enabled + evaluate.full_data
    if evaluate.controls:
        sets += 4 + config.finetune.enabled + 2 * config.refine.enabled + (ipc == 1)
    batch, steps, cost = min(student.batch_size, num_classes * ipc), student.num_steps, 1.0
    setting = job_setting(config, num_classes)
    if setting is not None:  # priced by the operations of its network beside our student's
        network, steps, batch = student_steps(setting)
        size, channels = setting.case.image_size, setting.case.channels
        cost = classifier_flops(network, size, channels) / classifier_flops(
            student.network, size, channels
        )
    num_test = look.num_images - look.num_train / (1 - config.data.validation_fraction)
    test = cost * NUM_SHIFTS * num_test * speeds.classifier.image_s / 3
    training = cost * steps * speeds.classifier.of(batch)
    return sets * evaluate.num_seeds * (training + test)
