"""Stage refine: the chosen images moved by distribution matching; the best set on validation."""

from typing import Any

import numpy as np

from distillery.files import write_json
from distillery.seeds import derive_seed
from distillery.tensorfile import read_tensors, write_tensors
from generator.config import DistillConfig, key_dict, to_dict
from generator.refinement import Refined, refine_images
from generator.stage import Context, Stage, StageOutput
from generator.stages.common import machine_settings, open_reals, refining_codec
from generator.stages.score import CHOSEN, CLUSTERS

REFINED, CURVE = "refined.safetensors", "curve.json"


def settings(config: DistillConfig) -> dict[str, Any]:
    """Return what the refined images depend on."""
    return {
        "refine": key_dict(config.refine),
        "proxy": to_dict(config.proxy),
        "student": to_dict(config.evaluate.student),
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
        return StageOutput("switched off: the chosen images are the result", {"kept": 0})
    clusters = read_tensors(context.inputs["score"] / CLUSTERS)[0]["cluster_ids"]
    refined = refine_images(
        images, labels, open_reals(context), clusters, context.config,
        seed=derive_seed(context.config.seed, "refine"),
        checkpoint=lambda attempt: context.checkpoint(f"attempt-{attempt}"),
        on_progress=context.on_progress, codec=refining_codec(context),
    )  # fmt: skip
    stored = {"images": refined.images, "labels": refined.labels}
    write_tensors(context.folder / REFINED, stored)
    write_json(context.folder / CURVE, {"loss": refined.losses})
    return StageOutput(
        _summary(images, refined, context.config),
        {"kept": refined.kept, "set_scores": refined.scores},
    )


def _summary(start: np.ndarray, refined: Refined, config: DistillConfig) -> str:
    """Return the line that says what refinement did, and that it was kept or not."""
    before, scores = refined.scores[0], refined.scores[1:]
    text = f"robust validation loss of students: start {before:.2f}, refined "
    text += ", ".join(f"{score:.2f}" for score in scores)
    if refined.kept == 0:
        return text + "; no attempt is better than the start, so the chosen images stay"
    if config.refine.factor > 1:
        return f"{text}; each stored image holds {config.refine.pictures_per_image} pictures"
    moved = np.abs(refined.images.astype(np.int16) - start).mean() / 255
    best = f" (attempt {refined.kept} is kept)" if len(scores) > 1 else ""
    return text + f"{best}; pixels moved by {100 * moved:.1f} % of their range on average"


STAGE = Stage("refine", 2, ("prepare", "base", "score"), settings, run)
