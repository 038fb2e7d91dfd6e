"""Aside: the teacher of soft labels, trained on the real train split."""

from typing import Any

from distillery.evaluation.config import StudentConfig
from distillery.evaluation.training import accuracy
from distillery.progress import Progress
from distillery.seeds import derive_seed
from generator.config import DistillConfig
from generator.stage import Context, Stage, StageOutput
from generator.stages.common import fit_classifier, machine_settings, open_reals, save_classifier

TEACHER = "teacher.safetensors"


def settings(config: DistillConfig) -> dict[str, Any]:
    """Return what the teacher depends on."""
    return {
        "num_steps": config.label.num_steps,
        "network": config.proxy.network,
        "batch_size": config.proxy.batch_size,
        "augmentation": config.evaluate.student.augmentation,
        "seed": config.seed,
        **machine_settings(config),
    }


def run(context: Context) -> StageOutput:
    """Train the teacher."""
    config, reals = context.config, open_reals(context)
    recipe = StudentConfig(
        network=config.proxy.network,
        num_steps=config.label.num_steps,
        batch_size=min(128, config.proxy.batch_size),
        augmentation=config.evaluate.student.augmentation,
    )
    teacher = fit_classifier(
        reals, *reals.split("train"), recipe, seed=derive_seed(config.seed, "teacher"),
        on_step=lambda step: context.on_progress(
            Progress("label", step, recipe.num_steps, "training the teacher")
        ),
    )  # fmt: skip
    save_classifier(context.folder / TEACHER, teacher)
    reached = accuracy(teacher, *reals.split("validation"))
    return StageOutput(f"labels {100 * reached:.1f} % of validation", {"accuracy": reached})


STAGE = Stage("teacher", 1, ("prepare",), settings, run)
