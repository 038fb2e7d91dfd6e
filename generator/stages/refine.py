"""Stage refine: each start moved by distribution matching; the set that is best on validation.

The set of each start is written beside the result, for the table of controls; one that is there
is read back by a run that was killed.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from distillery.checkpoint import Checkpoint
from distillery.errors import ConfigError
from distillery.files import write_json
from distillery.progress import OnProgress, Progress
from distillery.seeds import derive_seed
from distillery.tensorfile import read_tensors, write_tensors
from generator.config import DistillConfig, key_dict, to_dict
from generator.real_start import has_enough, real_start
from generator.refinement import Refined, SetScorer, refine_images
from generator.stage import Context, Stage, StageOutput
from generator.stages.common import (
    CLUSTERED_PX,
    Reals,
    machine_settings,
    open_reals,
    refining_codec,
)
from generator.stages.score import CHOSEN, CLUSTERS, PROXY, num_chosen
from generator.starts import Start, kept_start, refined_starts, rivals
from robust.scoring import Gain

REFINED, CURVE = "refined.safetensors", "curve.json"
NAMES: Mapping[Start, str] = {
    "generated": "generated start", "real": "real start (k-medoids)",
}  # fmt: skip
MESSAGES: Mapping[Start, str] = {
    "generated": "the chosen images", "real": "k-medoids of real images",
}  # fmt: skip
"""How the line of a start and its progress are worded."""
Arrays = dict[str, np.ndarray]
SEEDS: Mapping[Start, tuple[str, ...]] = {"generated": ("refine",), "real": ("refine", "real")}


def settings(config: DistillConfig) -> dict[str, Any]:
    """Return what the refined images depend on."""
    return {
        "refine": key_dict(config.refine),
        "starts": refined_starts(config),
        "proxy": to_dict(config.proxy),
        "student": to_dict(config.evaluate.student),
        "images_per_class": config.images_per_class,
        "seed": config.seed,
        **machine_settings(config),
        **_clustering(config),
    }


def _clustering(config: DistillConfig) -> dict[str, Any]:
    """Return the side at which larger images are clustered for the scores.

    Nothing for small ones: what was computed before larger ones were pooled stays valid.
    """
    return {"clustered_px": CLUSTERED_PX} if (config.image_size or 0) > CLUSTERED_PX else {}


def refined_file(start: Start) -> str:
    """Return the name of the file that holds the refined set of a start."""
    return f"refined-{start}.safetensors"


def run(context: Context) -> StageOutput:
    """Refine every start and keep the best, or hand the chosen images on as they are."""
    config, is_fallback = context.config, context.facts("score")["fallback"]
    chosen, _ = read_tensors(context.inputs["score"] / CHOSEN)
    if not config.refine.enabled:
        write_tensors(context.folder / REFINED, chosen)
        write_json(context.folder / CURVE, {"loss": []})
        facts = {"start": "generated", "kept": 0, "starts": {}}
        return StageOutput("switched off: the chosen images are the result", facts)
    reals = open_reals(context)
    clusters = read_tensors(context.inputs["score"] / CLUSTERS)[0]["cluster_ids"]
    sets: dict[Start, Arrays] = {
        start: chosen if start == "generated" else _real_start(context, reals, clusters)
        for start in _possible(config, reals, is_fallback=is_fallback)
    }
    scorer = SetScorer(reals, config)
    refined = _refine_all(context, reals, clusters, sets, scorer)
    competing = [one for one in rivals(config, is_fallback=is_fallback) if one in refined]
    gain = None
    if len(competing) > 1:
        gain = scorer.gain(refined["generated"], refined["real"])
    kept = kept_start(competing, is_real_better=gain is not None and gain.is_beyond_chance())
    _write(context, sets[kept], refined[kept])
    told = {start: _facts(one) for start, one in refined.items()}
    return StageOutput(
        _summary(config, sets[kept]["images"], refined, kept, competing, gain),
        {"start": kept, "starts": told, "gain": _gain_facts(gain), **told[kept]},
    )


def _possible(config: DistillConfig, reals: Reals, *, is_fallback: bool) -> tuple[Start, ...]:
    """Return the starts that are refined; no real one where there are too few images to pack.

    Raises:
        ConfigError: If no other was asked for.
    """
    starts = refined_starts(config, is_fallback=is_fallback)
    if has_enough(reals, config):
        return starts
    if config.refine.start == "real":
        raise ConfigError(
            f"a real start takes {num_chosen(config)} training images of every class, and the "
            "smallest has fewer: use fewer images per class, or leave refine.start at auto"
        )
    return tuple(start for start in starts if start != "real")


def _real_start(context: Context, reals: Reals, clusters: np.ndarray) -> Arrays:
    """Return the medoids in the features of the proxy that stage score has trained."""
    network = context.config.proxy.network
    proxy = reals.load_classifier(context.inputs["score"] / PROXY, network)
    return real_start(reals, proxy, clusters, context.config)


def _refine_all(
    context: Context, reals: Reals, clusters: np.ndarray, sets: Mapping[Start, Arrays],
    scorer: SetScorer,
) -> dict[Start, Refined]:  # fmt: skip
    """Return the best set of each start; one that a killed run has finished is read."""
    codec, found = refining_codec(context), {}
    for number, (start, arrays) in enumerate(sets.items()):
        path = context.folder / refined_file(start)
        if not path.exists():
            refined = refine_images(
                arrays["images"], arrays["labels"], reals, clusters, context.config,
                scorer=scorer, seed=derive_seed(context.config.seed, *SEEDS[start]),
                checkpoint=partial(_checkpoint, context, start),
                on_progress=_part_of(context.on_progress, number, len(sets), MESSAGES[start]),
                codec=codec,
            )  # fmt: skip
            _write_finished(path, refined)
        found[start] = _read_finished(path)
    return found


def _checkpoint(context: Context, start: Start, attempt: int) -> Checkpoint:
    """Return the state of one attempt at a start."""
    return context.checkpoint(f"{start}-{attempt}")


def _write_finished(path: Path, refined: Refined) -> None:
    """Write the set of a start with how it was chosen."""
    facts = {"losses": refined.losses, "scores": refined.scores, "kept": refined.kept}
    arrays = {
        "images": refined.images, "labels": refined.labels,
        "validation_losses": refined.validation_losses,
    }  # fmt: skip
    write_tensors(path, arrays, {"facts": json.dumps(facts, sort_keys=True)})


def _read_finished(path: Path) -> Refined:
    """Return what `_write_finished` wrote."""
    arrays, metadata = read_tensors(path)
    facts = json.loads(metadata["facts"])
    return Refined(
        arrays["images"], arrays["labels"], facts["losses"], facts["scores"], facts["kept"],
        arrays["validation_losses"],
    )  # fmt: skip


def _part_of(on_progress: OnProgress, number: int, count: int, message: str) -> OnProgress:
    """Return what tells the steps of one start as steps of all: the bar never goes back."""

    def tell(progress: Progress) -> None:
        step, total = number * progress.total + progress.step, count * progress.total
        on_progress(replace(progress, step=step, total=total, message=message))

    return tell


def _write(context: Context, start: Arrays, refined: Refined) -> None:
    """Write the result: a packed image has seed, scores and cluster of its first picture."""
    first = slice(None, None, context.config.refine.pictures_per_image)
    told = {name: start[name][first] for name in ("seeds", "scores", "cluster_ids")}
    result = {"images": refined.images, "labels": refined.labels, **told}
    write_tensors(context.folder / REFINED, result)
    write_json(context.folder / CURVE, {"loss": refined.losses})


def _facts(refined: Refined) -> dict[str, Any]:
    """Return how the set of a start was chosen; a score that is no number is None."""
    scores = [score if math.isfinite(score) else None for score in refined.scores]
    return {"kept": refined.kept, "set_scores": scores}


def _summary(
    config: DistillConfig, start: np.ndarray, refined: Mapping[Start, Refined], kept: Start,
    competing: Sequence[Start], gain: Gain | None,
) -> str:  # fmt: skip
    """Return the line that says which start was kept, by which scores, and how it moved."""
    names = NAMES if gain is not None else {**NAMES, "generated": "start"}
    text = "robust validation loss of students: " + _told(names, refined, competing)
    text += "" if gain is None else f"; {_choice(kept, gain)}"
    text += _outcome(config, start, refined[kept])
    if config.refine.start == "auto" and "real" not in refined:
        text += "; no real start: the smallest class has too few images to pack"
    others = [one for one in refined if one not in competing]
    return text + (f"; for the table alone: {_told(NAMES, refined, others)}" if others else "")


def _choice(kept: Start, gain: Gain) -> str:
    """Return which start was kept and how sure it is that the real one is better or not."""
    error = f" ± {gain.error:.3f}" if math.isfinite(gain.error) else ""
    how = "beyond chance" if kept == "real" else "not better beyond chance"
    if math.isfinite(gain.value) and not error:
        how = "which one validation image in a class cannot tell from chance"
    return f"real less by {gain.value:.3f}{error}, {how}: the {kept} start is kept"


def _gain_facts(gain: Gain | None) -> dict[str, float | None] | None:
    """Return what the record says of the gain of the real start; a NaN is None."""
    if gain is None:
        return None
    facts = {"value": gain.value, "error": gain.error, "freedom": gain.freedom}
    return {name: value if math.isfinite(value) else None for name, value in facts.items()}


def _told(
    names: Mapping[Start, str], refined: Mapping[Start, Refined], starts: Sequence[Start]
) -> str:
    """Return the scores of some starts."""
    return "; ".join(f"{names[start]} {_scores(refined[start])}" for start in starts)


def _scores(refined: Refined) -> str:
    """Return the scores of a start and of its refinements."""
    before, *after = (
        f"{score:.3f}" if math.isfinite(score) else "unusable" for score in refined.scores
    )
    return f"{before}, refined {', '.join(after)}"


def _outcome(config: DistillConfig, start: np.ndarray, refined: Refined) -> str:
    """Return what became of the start that was kept."""
    if refined.kept == 0:
        return "; no attempt is better than the start, so its images stay"
    if config.refine.factor > 1:
        return f"; each stored image holds {config.refine.pictures_per_image} pictures"
    moved = np.abs(refined.images.astype(np.int16) - start).mean() / 255
    best = f" (attempt {refined.kept} is kept)" if len(refined.scores) > 2 else ""
    return f"{best}; pixels moved by {100 * moved:.1f} % of their range on average"


STAGE = Stage("refine", 5, ("prepare", "base", "score"), settings, run)
