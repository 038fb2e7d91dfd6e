"""The published protocol that a job was asked to judge by, fitted to the job. No torch."""

from dataclasses import replace

from distillery.errors import ConfigError
from distillery.evaluation.protocols import Case, find_protocol
from distillery.evaluation.setting import Setting, resolve
from generator.config import DistillConfig

OWN_TEACHER = "own"


def job_setting(config: DistillConfig, num_classes: int) -> Setting | None:
    """Return the protocol of a job fitted to its images, None where it judges by its own student.

    Raises:
        ConfigError: If the protocol says nothing of such a set, or the job trains no teacher.
    """
    if config.evaluate.protocol is None:
        return None
    protocol = find_protocol(config.evaluate.protocol)
    assert config.image_size is not None and config.channels is not None  # the plan filled them in
    case = Case(
        images_per_class=config.images_per_class, num_classes=num_classes,
        image_size=config.image_size, channels=config.channels,
    )  # fmt: skip
    setting = resolve(
        protocol, case, config.evaluate.protocol_overrides(), flip=config.horizontal_flip
    )
    if protocol.labels == "hard":
        return setting
    if not config.label.enabled or config.label.teacher != OWN_TEACHER:
        raise ConfigError(
            f"{protocol.name} asks the job's own teacher: leave out --no-soft-labels and "
            "label.teacher, or evaluate the finished job with distillery evaluate"
        )
    if config.refine.factor > 1:
        raise ConfigError(
            f"{protocol.name} asks for soft labels, which packed images have none of: leave out "
            "refine.parameterisation, or evaluate the finished job with distillery evaluate"
        )
    changes = (f"the job's teacher, {config.proxy.network}", "test images are not cropped")
    return replace(setting, deviations=setting.deviations + changes)


def student_steps(setting: Setting) -> tuple[str, int, int]:
    """Return (network, optimiser steps, images a step) of a student of the set itself."""
    network, recipe = next(iter(setting.recipes.items()))
    num_images = setting.case.images_per_class * setting.case.num_classes
    steps = recipe.num_epochs * -(-num_images // recipe.batch_size)
    return network, steps, min(recipe.batch_size, num_images)
