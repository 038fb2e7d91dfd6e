"""Stage label: soft labels of the result, from a teacher trained on the real train split."""

from typing import Any

import numpy as np

from distillery.evaluation.config import StudentConfig
from distillery.evaluation.training import (
    accuracy,
    cross_entropy_objective,
    predict_logits,
    train_classifier,
)
from distillery.progress import Progress
from distillery.seeds import derive_seed
from distillery.tensorfile import read_tensors, write_tensors
from generator.config import DistillConfig, to_dict
from generator.stage import Context, Stage, StageOutput
from generator.stages.common import machine_settings, open_reals, save_classifier
from generator.stages.refine import REFINED

LOGITS, TEACHER = "logits.safetensors", "teacher.safetensors"


def settings(config: DistillConfig) -> dict[str, Any]:
    """Return what the soft labels depend on."""
    return {
        "label": to_dict(config.label),
        "network": config.proxy.network,
        "batch_size": config.proxy.batch_size,
        "augmentation": config.evaluate.student.augmentation,
        "seed": config.seed,
        **machine_settings(config),
    }


def run(context: Context) -> StageOutput:
    """Train the teacher and label the images, or say that there are hard labels only."""
    if not context.config.label.enabled:
        return StageOutput("switched off: the bundle has hard labels only", {"enabled": False})
    reals, config = open_reals(context), context.config
    recipe = StudentConfig(
        network=config.proxy.network,
        num_steps=config.label.num_steps,
        batch_size=min(128, config.proxy.batch_size),
        augmentation=config.evaluate.student.augmentation,
    )
    seed = derive_seed(config.seed, "teacher")
    images, labels = reals.split("train")
    teacher = reals.new_classifier(recipe.network, seed)
    train_classifier(
        teacher, images, cross_entropy_objective(labels), recipe, seed=seed,
        background=reals.normalisation.background(),
        on_step=lambda step: context.on_progress(
            Progress("label", step, recipe.num_steps, "training the teacher")
        ),
    )  # fmt: skip
    save_classifier(context.folder / TEACHER, teacher)
    arrays, _ = read_tensors(context.inputs["refine"] / REFINED)
    logits = predict_logits(teacher, reals.normalised(arrays["images"])).cpu().numpy()
    write_tensors(context.folder / LOGITS, {"logits": logits.astype(np.float16)})
    reached = accuracy(teacher, *reals.split("validation"))
    return StageOutput(
        f"teacher labels {100 * reached:.1f} % of validation rightly",
        {"enabled": True, "teacher_accuracy": reached},
    )


STAGE = Stage("label", 1, ("prepare", "refine"), settings, run)
