"""Stage label: soft labels of the result, from a teacher.

The teacher is trained here on the real train split, or is a vision model that the user names.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from distillery.evaluation.training import predict_logits
from distillery.tensorfile import read_tensors, write_tensors
from generator.aside import finished, take
from generator.config import DistillConfig, to_dict
from generator.public_names import public_name
from generator.stage import Context, Stage, StageOutput
from generator.stages.common import Reals, machine_settings, open_reals
from generator.stages.refine import REFINED
from generator.stages.teacher import STAGE as TEACHER_STAGE
from generator.stages.teacher import TEACHER
from generator.vision import OWN_TEACHER, load_vision_model, model_files, teacher_columns

LOGITS = "logits.safetensors"


def settings(config: DistillConfig) -> dict[str, Any]:
    """Return what the soft labels depend on."""
    return {
        "label": to_dict(config.label),
        **model_files(config.label.teacher),
        "network": config.proxy.network,
        "batch_size": config.proxy.batch_size,
        "augmentation": config.evaluate.student.augmentation,
        "seed": config.seed,
        **machine_settings(config),
    }


def run(context: Context) -> StageOutput:
    """Label the images, or say that there are hard labels only."""
    if not context.config.label.enabled:
        return StageOutput("switched off: the bundle has hard labels only", {"enabled": False})
    if context.config.refine.factor > 1:
        text = "packed images have hard labels only: a soft label is of one picture"
        return StageOutput(text, {"enabled": False})
    reals = open_reals(context)
    images = read_tensors(context.inputs["refine"] / REFINED)[0]["images"]
    is_own = context.config.label.teacher == OWN_TEACHER
    logits, reached = (_own_logits if is_own else _named_logits)(context, reals, images)
    write_tensors(context.folder / LOGITS, {"logits": logits.numpy().astype(np.float16)})
    name = "teacher" if is_own else f"teacher {public_name(context.config.label.teacher)}"
    return StageOutput(
        f"{name} labels {100 * reached:.1f} % of validation rightly",
        {"enabled": True, "teacher_accuracy": reached},
    )


def _named_logits(context: Context, reals: Reals, images: np.ndarray) -> tuple[Tensor, float]:
    """Return logits (N, K) of the teacher that the user named, and its validation accuracy."""
    config = context.config
    teacher = load_vision_model(
        config.label.teacher, allow_download=config.base.allow_download, device=reals.device
    )
    columns = teacher_columns(config.label.teacher, teacher.id2label, reals.dataset.class_names)

    def logits_of(raw: np.ndarray) -> Tensor:
        return teacher.logits(torch.from_numpy(raw)).cpu()[:, columns]

    validation, labels = reals.dataset.split("validation")
    right = logits_of(validation).argmax(1) == torch.from_numpy(labels)
    return logits_of(images), float(right.double().mean())


def _own_logits(context: Context, reals: Reals, images: np.ndarray) -> tuple[Tensor, float]:
    """Return logits (N, K) of a teacher trained on the train split, and its accuracy."""
    aside = finished(context, TEACHER_STAGE)
    take(context, aside, TEACHER)
    teacher = reals.load_classifier(context.folder / TEACHER, context.config.proxy.network)
    logits = predict_logits(teacher, reals.normalised(images)).cpu()
    return logits, aside.record["facts"]["accuracy"]


STAGE = Stage("label", 1, ("prepare", "refine"), settings, run)
