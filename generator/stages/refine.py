"""Stage refine: the chosen images moved by distribution matching against proxies."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from distillery.checkpoint import Checkpoint
from distillery.evaluation.training import augmentation_of
from distillery.files import write_json
from distillery.models.classifiers import Classifier
from distillery.progress import OnProgress
from distillery.seeds import derive_seed
from distillery.tensorfile import read_tensors, write_tensors
from generator.config import DistillConfig, to_dict
from generator.stage import Context, Stage, StageOutput
from generator.stages.common import Reals, machine_settings, open_reals
from generator.stages.score import CHOSEN, CLUSTERS
from robust.config import ProxyConfig
from robust.proxy import train_proxy
from robust.refine import RealImages, RefineResult, refine

REFINED, CURVE = "refined.safetensors", "curve.json"


def settings(config: DistillConfig) -> dict[str, Any]:
    """Return what the refined images depend on."""
    return {
        "refine": to_dict(config.refine),
        "proxy": to_dict(config.proxy),
        "augmentation": config.evaluate.student.augmentation,
        "seed": config.seed,
        **machine_settings(config),
    }


def run(context: Context) -> StageOutput:
    """Refine the chosen images, or hand them on as they are."""
    arrays, _ = read_tensors(context.inputs["score"] / CHOSEN)
    images, labels = arrays["images"], arrays["labels"]
    if not context.config.refine.enabled:
        write_tensors(context.folder / REFINED, {"images": images, "labels": labels})
        write_json(context.folder / CURVE, {"loss": []})
        return StageOutput("switched off: the chosen images are the result")
    reals = open_reals(context)
    clusters = read_tensors(context.inputs["score"] / CLUSTERS)[0]["cluster_ids"]
    refined, losses = refine_images(
        images, labels, reals, clusters, context.config,
        seed=derive_seed(context.config.seed, "refine"),
        checkpoint=context.checkpoint(), on_progress=context.on_progress,
    )  # fmt: skip
    write_tensors(context.folder / REFINED, {"images": refined, "labels": labels})
    write_json(context.folder / CURVE, {"loss": losses})
    moved = np.abs(refined.astype(np.int16) - images).mean() / 255
    return StageOutput(
        f"{len(losses)} steps; matching objective {losses[0]:.3f} -> {losses[-1]:.3f}; "
        f"pixels moved by {100 * moved:.1f} % of their range on average"
    )


def refine_images(
    images: np.ndarray, labels: np.ndarray, reals: Reals, clusters: np.ndarray,
    config: DistillConfig, *, seed: int, checkpoint: Checkpoint | None, on_progress: OnProgress,
) -> tuple[np.ndarray, list[float]]:  # fmt: skip
    """Return refined raw images and the objective at each step; for ours and for controls."""
    train_images, train_labels = reals.split("train")
    result: RefineResult = refine(
        reals.normalised(images)[:],
        torch.from_numpy(labels).to(reals.device),
        RealImages(train_images, train_labels),
        proxy_maker(reals, clusters, config, seed=seed),
        config.refine,
        decode=lambda parameters: parameters,
        project=reals.normalisation.clamp,
        augmentation=augmentation_of(config.evaluate.student),
        num_classes=reals.num_classes,
        seed=seed,
        background=reals.normalisation.background(),
        checkpoint=checkpoint,
        on_progress=on_progress,
    )
    return reals.normalisation.to_raw(result.parameters).cpu().numpy(), result.losses


def proxy_maker(
    reals: Reals, clusters: np.ndarray, config: DistillConfig, *, seed: int
) -> Callable[[int], Classifier]:
    """Return the function that trains the proxy of a number, from its own seed."""
    images, labels = reals.split("train")
    recipe = ProxyConfig(**{**to_dict(config.proxy), "num_steps": config.refine.proxy_steps})

    def make(number: int) -> Classifier:
        proxy = train_proxy(
            images, labels, clusters, (images[:1], labels[:1]),
            num_classes=reals.num_classes, config=recipe,
            augmentation=config.evaluate.student.augmentation,
            seed=derive_seed(seed, "refine-proxy", number),
            background=reals.normalisation.background(),
        )  # fmt: skip
        return proxy.network.requires_grad_(False)

    return make


STAGE = Stage("refine", 1, ("prepare", "score"), settings, run)
