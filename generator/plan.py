"""From what a user asked for to a complete configuration, with the reason for each choice.

The request is a nested dict with the fields that the user set; everything else comes from
`generator.defaults`. Plans are made once: a resumed job reads its stored configuration.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from distillery.data.config import DataConfig
from distillery.data.sources.hub import pinned
from distillery.data.sources.resolve import open_source
from distillery.data.splits import assign_splits, count_classes, lacking_classes, settle_given
from distillery.data.survey import survey
from distillery.errors import ConfigError
from distillery.machine import Machine
from distillery.models.class_rows import map_classes
from generator.base_choice import BaseChoice
from generator.bases import describe_mapping
from generator.checks import (
    check_base,
    check_data,
    check_device,
    check_networks,
    check_parameterisation,
    check_start,
)
from generator.choose_base import choose_base
from generator.config import DistillConfig, from_dict
from generator.defaults import Situation, default_threads, default_values
from generator.job_protocol import job_setting
from generator.limit import limit_evaluation
from generator.planned import BAD_FILES_SEEN, Decision, Look, Plan
from generator.vision import check_vision_models

PRESETS = ("default", "smoke")
MINIMAX_PRESETS = ("default", "reference", "printed")
MIRRORED = {"affine": "affine-flip", "dsa-no-flip": "dsa"}
"""What takes the place of an augmentation where `--flip` was said; `none` stays."""
UNMIRRORED = {mirrored: plain for plain, mirrored in MIRRORED.items()}


def make_plan(
    request: Mapping[str, Any], *, cache: Path, machine: Machine, models: Path | None = None
) -> Plan:
    """Return the plan for a request.

    Args:
        request: Nested dict of the fields that the user set, as in `DistillConfig`.
        cache: Folder of shared stages, looked through for a base that knows the data.
        machine: Where the job will run.
        models: Folder of DiT pipelines that may be taken unasked, beside the Hub's cache.

    Raises:
        ConfigError: If a field is unknown or out of range.
        DataError: If the dataset cannot be read, or has too few images for the request.
        ModelError: If a model is not there, or a base has rows for too few classes.
    """
    asked = from_dict(request)  # refuses unknown fields and wrong types before any work
    look = look_at(asked.data)
    check_data(asked, look)
    if look.revision is not None:  # so that the same images are had again
        asked = replace(asked, data=pinned(asked.data, look.revision))

    def resolve(choice: BaseChoice) -> DistillConfig:
        return _resolve(request, asked, look, choice, machine)

    choice = choose_base(asked, look, machine=machine, cache=cache, models=models, resolve=resolve)
    check_base(asked, choice)
    config = resolve(choice)
    check_device(config)
    check_parameterisation(config, choice)
    check_start(config, look)
    check_networks(config)
    check_vision_models(config, look.class_names)
    job_setting(config, len(look.class_names))  # refuses a protocol that the job cannot follow
    decisions = _decisions(config, asked, look, choice) + _class_decisions(look, choice)
    plan = Plan(config, decisions, _warnings(asked, look, choice), look, choice.licence)
    return limit_evaluation(plan, request)


def _resolve(
    request: Mapping[str, Any], asked: DistillConfig, look: Look, choice: BaseChoice,
    machine: Machine,
) -> DistillConfig:  # fmt: skip
    """Return the complete configuration of a request with this base."""
    situation = Situation(
        kind=choice.kind,
        preset=asked.preset,
        minimax_preset=_minimax_preset(request),
        image_size=choice.image_size,
        channels=asked.channels or choice.channels or (1 if look.survey.gray else 3),
        num_classes=len(look.class_names),
        num_train=look.num_train,
        images_per_class=asked.images_per_class,
        pictures_per_image=asked.refine.pictures_per_image,
        num_threads=default_threads(machine.num_cores, choice.image_size),
        device=_device(asked, machine),
        is_digits=asked.data.dataset == "digits",
    )
    values = merge(merge(default_values(situation), choice.values), request)
    found = {
        "base": {"reference": choice.reference, "revision": choice.revision},
        "data": {"dataset": asked.data.dataset, "revision": asked.data.revision},
    }
    config: DistillConfig = from_dict(merge(values, found))
    if config.horizontal_flip and asked.horizontal_flip is None:
        return config
    return _with_augmentation(config, MIRRORED if config.horizontal_flip else UNMIRRORED)


def _with_augmentation(config: DistillConfig, instead: Mapping[str, str]) -> DistillConfig:
    """Return a configuration whose classifiers all see mirrored images, or none of them.

    Judge, proxies, teacher and refinement augment as the student does.
    """
    student = config.evaluate.student
    augmentation = instead.get(student.augmentation, student.augmentation)
    student = replace(student, augmentation=augmentation)
    return replace(config, evaluate=replace(config.evaluate, student=student))


def _device(asked: DistillConfig, machine: Machine) -> str:
    """Return the device to run on: what was asked for, else the GPU where there is one.

    Raises:
        ConfigError: If a GPU was asked for and there is none.
    """
    if asked.device == "cuda" and machine.gpu is None:
        raise ConfigError("device cuda was asked for, but torch sees no GPU here: use device cpu")
    return asked.device or ("cuda" if machine.gpu else "cpu")


def look_at(config: DataConfig) -> Look:
    """Open the dataset and count it."""
    with open_source(config) as source:
        splits = [item.split for item in source.items]
        settled, notes = settle_given(splits)
        labels = np.array([item.label for item in source.items], np.int64)
        drawn = assign_splits(labels, splits, config)
        counts = count_classes(labels, drawn, len(source.class_names))
        train = counts["train"]
        fewest = train.index(min(train))
        return Look(
            survey(source), source.class_names, len(source.items), sum(train),
            train[fewest],
            notes=(*source.notes, *notes, *lacking_classes(counts, source.class_names)),
            fewest_train=(source.class_names[fewest], train[fewest]),
            given_splits=frozenset(split for split in settled if split),
            revision=source.revision,
        )  # fmt: skip


def merge(values: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested dicts laid over each other; what is None in `over` leaves what is there."""
    merged = dict(values)
    for name, value in over.items():
        if isinstance(value, Mapping):
            merged[name] = merge(merged.get(name) or {}, value)
        elif value is not None or name not in merged:
            merged[name] = value
    return merged


def _minimax_preset(request: Mapping[str, Any]) -> Any:
    """Return the named minimax preset of a request."""
    preset = request.get("finetune", {}).get("preset", "default")
    if preset not in MINIMAX_PRESETS:
        raise ConfigError(
            f"finetune.preset must be one of {', '.join(MINIMAX_PRESETS)}, got {preset!r}"
        )
    return preset


def _decisions(
    config: DistillConfig, asked: DistillConfig, look: Look, choice: BaseChoice
) -> tuple[Decision, ...]:
    """Return what was chosen for the user, with reasons."""
    found = [Decision("base model", choice.name, choice.reason)]
    if asked.image_size is None:
        text = f"images are about {look.survey.native_size} px; {choice.size_reason}"
        found.append(Decision("image size", f"{config.image_size} px", text))
    if asked.horizontal_flip is None:
        kind = (
            "gray images are often letters and digits"
            if config.channels == 1
            else ("colour photographs mean the same mirrored")
        )
        found.append(Decision("mirroring", "on" if config.horizontal_flip else "off", kind))
    if asked.generate.guidance_scale is None:
        reason = f"falls as images per class rise; this job has {config.images_per_class}"
        found.append(Decision("guidance scale", str(config.generate.guidance_scale), reason))
    return tuple(found)


def _class_decisions(look: Look, choice: BaseChoice) -> tuple[Decision, ...]:
    """Return which classes an existing base knows; one that is trained here knows them all."""
    if choice.num_rows is None:
        return ()
    mapping = map_classes(look.class_names, choice.id2label, choice.num_rows)
    return (Decision("classes", *describe_mapping(look.class_names, mapping)),)


def _warnings(asked: DistillConfig, look: Look, choice: BaseChoice) -> tuple[str, ...]:
    """Return what a user should know before the run."""
    found = [*choice.warnings, *look.notes]
    if look.survey.num_bad:
        found.append(
            f"{look.survey.num_bad} of {look.survey.num_bad + look.survey.num_read} images looked "
            f"at cannot be read; {BAD_FILES_SEEN}"
        )
    if choice.channels == 1 and asked.channels is None and not look.survey.gray:
        found.append(
            f"the dataset has colour images, but {choice.name} makes gray ones, so all of them "
            "are turned gray: name another base to keep the colours, or ask for gray with --set "
            "channels=1"
        )
    if choice.licence:
        found.append(f"the base model's licence is {choice.licence}; the bundle inherits it")
    return tuple(found)
