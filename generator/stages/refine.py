"""Stage refine: each start moved by distribution matching; the set that is best on validation.

The set of each start is written beside the result, for the table of controls; one that is there
is read back by a run that was killed.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distillery.errors import ConfigError
from distillery.files import write_json
from distillery.progress import Progress
from distillery.tensorfile import read_tensors, write_tensors
from generator.aside import finished, take
from generator.config import DistillConfig
from generator.real_start import has_enough
from generator.refinement import Refined, SetScorer
from generator.stage import Context, Stage, StageOutput
from generator.stages.common import Reals, open_reals, refining_codec
from generator.stages.proxies import STAGE as PROXIES_STAGE
from generator.stages.proxies import load_proxies
from generator.stages.refine_real import STAGE as REAL_STAGE
from generator.stages.refine_real import (
    START,
    Arrays,
    is_aside,
    medoid_start,
    read_finished,
    refine_start,
    refined_file,
)
from generator.stages.refine_real import settings as start_settings
from generator.stages.score import CHOSEN, num_chosen
from generator.starts import Start, kept_start, refined_starts, rivals
from robust.scoring import Gain

REFINED, CURVE = "refined.safetensors", "curve.json"
NAMES: Mapping[Start, str] = {
    "generated": "generated start", "real": "real start (k-medoids)",
}  # fmt: skip
"""How the line of a start is worded."""


def settings(config: DistillConfig) -> dict[str, Any]:
    """Return what the refined images depend on."""
    return start_settings(config) | {"starts": refined_starts(config)}


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
    scorer = SetScorer(reals, config)
    starts = _possible(config, reals, is_fallback=is_fallback)
    sets, refined = _refine_all(context, reals, chosen, starts, scorer)
    competing = [one for one in rivals(config, is_fallback=is_fallback) if one in refined]
    gain = _gain(context, scorer, refined) if len(competing) > 1 else None
    kept = kept_start(competing, is_real_better=gain is not None and gain.is_beyond_chance())
    _write(context, sets[kept], refined[kept])
    told = {start: _facts(one) for start, one in refined.items()}
    return StageOutput(
        _summary(config, sets[kept]["images"], refined, kept, competing, gain),
        {"start": kept, "starts": told, "gain": _gain_facts(gain), **told[kept]},
    )


def _gain(context: Context, scorer: SetScorer, refined: Mapping[Start, Refined]) -> Gain:
    """Return by how much the real start is better, telling of the students that judge both."""

    def tell(progress: Progress) -> None:
        done = context.config.refine.num_steps
        context.on_progress(Progress("refine", done, done, f"both starts {progress.message}"))

    return scorer.gain(refined["generated"], refined["real"], on_progress=tell)


def _possible(config: DistillConfig, reals: Reals, *, is_fallback: bool) -> tuple[Start, ...]:
    """Return the starts that are refined; no real one where there are too few images to pack.

    Raises:
        ConfigError: If no other was asked for.
    """
    starts = refined_starts(config, is_fallback=is_fallback)
    if has_enough(reals.dataset, config):
        return starts
    if config.refine.start == "real":
        raise ConfigError(
            f"a real start takes {num_chosen(config)} training images of every class, and the "
            "smallest has fewer: use fewer images per class, or leave refine.start at auto"
        )
    return tuple(start for start in starts if start != "real")


def _refine_all(
    context: Context, reals: Reals, chosen: Arrays, starts: Sequence[Start], scorer: SetScorer
) -> tuple[dict[Start, Arrays], dict[Start, Refined]]:
    """Return each start and its best set; the real one is refined aside, unless latents move."""
    codec = refining_codec(context)
    proxy_of = load_proxies(finished(context, PROXIES_STAGE).folder, reals, context.config)
    sets: dict[Start, Arrays] = {}
    found: dict[Start, Refined] = {}
    for start in starts:
        if start == "real" and is_aside(context.config):
            aside = finished(context, REAL_STAGE)
            take(context, aside, refined_file(start))
            sets[start], _ = read_tensors(aside.folder / START)
            found[start] = read_finished(context.folder, start)
            continue
        sets[start] = (
            chosen
            if start == "generated"
            else medoid_start(reals, context.inputs["score"], context.config)
        )
        found[start] = refine_start(
            context, start, sets[start], reals, scorer=scorer, proxy_of=proxy_of, codec=codec
        )
    return sets, found


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


STAGE = Stage("refine", 7, ("prepare", "base", "score"), settings, run)
