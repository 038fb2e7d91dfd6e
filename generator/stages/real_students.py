"""Aside: students of the controls that are made of real images alone, on the test split, once.

Their figures are told by stage evaluate, which judges the rest. Published protocols judge every
set there.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from distillery.evaluation.harness import ImageSet
from distillery.evaluation.pool import Figures
from distillery.files import read_json, write_json
from distillery.tensorfile import read_tensors
from generator.config import DistillConfig, to_dict
from generator.controls import random_real, real_selections
from generator.judging import MakeSet, bench_of, judge_all, own_students
from generator.refinement import pictures_of
from generator.stage import Context, Stage, StageOutput
from generator.stages.common import Reals, machine_settings, open_reals
from generator.stages.proxy import PROXY
from generator.stages.proxy import STAGE as PROXY_STAGE
from generator.stages.refine_real import STAGE as REAL_STAGE
from generator.stages.refine_real import refined_file

FIGURES = "figures.json"


def settings(config: DistillConfig) -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "evaluate": to_dict(config.evaluate),
        "pictures_per_image": config.refine.pictures_per_image,
        "network": config.proxy.network,
        "images_per_class": config.images_per_class,
        "seed": config.seed,
        **machine_settings(config),
    }


def run(context: Context) -> StageOutput:
    """Judge random real images, herding, k-medoids and class means."""
    reals, config = open_reals(context), context.config
    return _judged(context, reals, dict(real_sets(reals, context.inputs["proxy"], config)))


def run_refined(context: Context) -> StageOutput:
    """Judge the refined medoids: our set where validation prefers it, else a control."""
    reals, config = open_reals(context), context.config
    image_set = refined_pictures(
        context.inputs["refine_real"] / refined_file("real"), reals, config
    )
    return _judged(context, reals, {"real_refined": always(image_set)})


def _judged(context: Context, reals: Reals, sets: Mapping[str, MakeSet]) -> StageOutput:
    """Write the figures of every student by the name of its set."""
    bench = bench_of(context.config, reals)
    figures = judge_all(context, {"hard": sets}, own_students(context.config, bench))
    write_json(context.folder / FIGURES, {name: figures["hard", name] for name in sets})
    return StageOutput(f"{len(sets)} sets")


def refined_pictures(
    path: Path, reals: Reals, config: DistillConfig, logits: np.ndarray | None = None
) -> ImageSet:
    """Return a refined set as students see it: the pictures that packed images hold."""
    arrays, _ = read_tensors(path)
    pictures = pictures_of(arrays["images"], reals, config.refine.factor)
    return ImageSet(pictures, np.repeat(arrays["labels"], config.refine.pictures_per_image), logits)


def real_sets(reals: Reals, folder: Path, config: DistillConfig) -> Iterator[tuple[str, MakeSet]]:
    """Yield the controls of real images, in the order of `controls.LABELS`.

    Args:
        reals: The prepared dataset.
        folder: Holds the proxy.
        config: The job's.
    """
    yield "random_real", lambda draw: random_real(reals, config, draw)
    proxy = reals.load_classifier(folder / PROXY, config.proxy.network)
    for name, image_set in real_selections(reals, proxy, config).items():
        yield name, always(image_set)


def always(image_set: ImageSet) -> MakeSet:
    """Return the same set for every student."""
    return lambda _: image_set


def known_figures(folder: Path) -> dict[str, list[Figures]]:
    """Return the figures of every student by the name of the set, of the finished stage."""
    return dict(read_json(folder / FIGURES))


STAGE = Stage("real_students", 1, ("prepare", "proxy"), settings, run, aside=(PROXY_STAGE,))
REFINED_STAGE = Stage(
    "refined_students", 1, ("prepare", "refine_real"), settings, run_refined, aside=(REAL_STAGE,)
)
