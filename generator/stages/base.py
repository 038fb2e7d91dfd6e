"""Stage base: the diffusion transformer, the rows of the job's classes, and the fidelity judge.

A pixel base is trained here on the train split, and shared by every job on the same data. A
pipeline folder or Hub id stays where it is; the mapping of classes to its label rows is stored.
The judge is a small classifier of real images that tells whether samples look like their class.
"""

from dataclasses import asdict
from typing import Any

from distillery.evaluation.config import StudentConfig
from distillery.evaluation.training import (
    accuracy,
)
from distillery.models.base import pixel_base, save_pixel_base
from distillery.models.class_rows import map_classes
from distillery.models.config import PixelDiTConfig
from distillery.models.diffusion import alphas_cumprod
from distillery.models.dit import build_pixel_dit
from distillery.progress import Progress
from distillery.seeds import derive_seed
from finetune.pretrain import pretrain
from generator.bases import base_stamp, find_base
from generator.config import DistillConfig, to_dict
from generator.defaults import judge_steps
from generator.public_names import public_name
from generator.stage import Context, Stage, StageOutput
from generator.stages.common import (
    Reals,
    device_of,
    fit_classifier,
    load_named_base,
    machine_settings,
    open_reals,
    save_classifier,
)

JUDGE = "judge.safetensors"


def settings(config: DistillConfig) -> dict[str, Any]:
    """Return what the base depends on; for a pixel base not the job's own seed."""
    base = to_dict(config.base)
    if config.base.reference != "pixel":
        base["pretrain"] = {"base_seed": config.base.pretrain.base_seed}  # the judge's seed
        base["files"] = base_stamp(config.base.reference)
    del base["allow_download"]
    return {
        "base": base,
        "flip": config.horizontal_flip,
        "judge": to_dict(judge_recipe(config)),
        **machine_settings(config),
    }


def judge_recipe(config: DistillConfig) -> StudentConfig:
    """Return how the fidelity judge is trained."""
    return StudentConfig(
        network=config.proxy.network,
        num_steps=judge_steps(config.preset),
        batch_size=min(128, config.proxy.batch_size),
        augmentation=config.evaluate.student.augmentation,
    )


def run(context: Context) -> StageOutput:
    """Train or find the base, map the classes, train the judge."""
    reals = open_reals(context)
    facts = _train_pixel(context, reals) if context.config.base.reference == "pixel" else None
    if facts is None:
        facts = _map_folder(context, reals)
    facts["judge_accuracy"] = _train_judge(context, reals)
    reference = public_name(context.config.base.reference)
    origin = f"read from {reference}" if facts["folder"] else "trained here"
    known = sum(1 for kind in facts["origins"] if kind == "known")
    summary = (
        f"{facts['kind']} DiT of {facts['num_parameters'] / 1e6:.1f} M parameters, {origin}; "
        f"{known} of {reals.num_classes} classes known to it"
    )
    return StageOutput(summary, facts)


def _train_pixel(context: Context, reals: Reals) -> dict[str, Any]:
    """Pretrain a pixel DiT on the train split and save it."""
    dataset, pretraining = reals.dataset, context.config.base.pretrain
    architecture = PixelDiTConfig.for_images(
        dataset.image_size, dataset.channels, reals.num_classes
    )
    transformer = build_pixel_dit(architecture, pretraining.base_seed)
    transformer.to(device_of(context.config))
    images, labels = dataset.split("train")
    schedule = alphas_cumprod(architecture.noise_schedule, architecture.num_timesteps)
    averaged = pretrain(
        transformer,
        images,
        labels,
        pretraining,
        alphas_cumprod=schedule,
        checkpoint=context.checkpoint("pretrain"),
        on_progress=lambda p: context.on_progress(
            Progress("base", p.step, p.total, p.message, p.metrics)
        ),
        flip=bool(context.config.horizontal_flip),
    )
    transformer.load_state_dict(averaged)
    base = pixel_base(
        transformer.cpu().eval(), architecture, dataset.class_names, reference=dataset.fingerprint
    )
    folder = context.folder / "base"
    if not folder.exists():  # a run killed after this line finds it complete
        save_pixel_base(base, folder)
    return {
        "kind": "pixel",
        "folder": None,
        "digest": base.digest,
        "licence": None,
        "rows": list(range(reals.num_classes)),
        "origins": ["known"] * reals.num_classes,
        "mapping": None,
        "num_parameters": architecture.num_parameters(),
    }


def _map_folder(context: Context, reals: Reals) -> dict[str, Any]:
    """Find the rows of the job's classes in the label tables of an existing base."""
    config = context.config.base
    folder = find_base(
        config.reference, revision=config.revision, allow_download=config.allow_download
    )
    base = load_named_base(context.config, folder)
    mapping = map_classes(reals.dataset.class_names, base.id2label, base.num_rows)
    return {
        "kind": base.kind,
        "folder": str(folder),
        "digest": base.digest,
        "config_digest": base.config_digest,
        "licence": base.licence,
        "rows": [int(row) for row in mapping.rows],
        "origins": list(mapping.origins),
        "mapping": asdict(mapping),
        "num_parameters": sum(p.numel() for p in base.transformer.parameters()),
    }


def _train_judge(context: Context, reals: Reals) -> float:
    """Train the fidelity judge on real images and return its validation accuracy."""
    recipe = judge_recipe(context.config)
    seed = derive_seed(context.config.base.pretrain.base_seed, "judge")
    network = fit_classifier(
        reals, *reals.split("train"), recipe, seed=seed,
        on_step=lambda step: context.on_progress(
            Progress("base", step, recipe.num_steps, "training the judge of fidelity")
        ),
    )  # fmt: skip
    save_classifier(context.folder / JUDGE, network)
    return accuracy(network, *reals.split("validation"))


STAGE = Stage("base", 2, ("prepare",), settings, run, is_shared=True)
