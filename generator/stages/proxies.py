"""Aside: the proxies that refinement looks through, trained on real images alone.

Each is a file by attempt and number, so that every start is refined by the same ones.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from distillery.evaluation.pool import Figures, Trial, run_trials
from distillery.models.classifiers import Classifier
from generator.config import DistillConfig, to_dict
from generator.refinement import ProxyOf, proxy_ages, train_number
from generator.stage import Context, Stage, StageOutput
from generator.stages.common import (
    Reals,
    machine_settings,
    num_workers,
    open_reals,
    save_classifier,
)
from generator.stages.proxy import STAGE as PROXY_STAGE
from generator.stages.proxy import clusters_in

STORE = "checkpoint-proxies.json"


def settings(config: DistillConfig) -> dict[str, Any]:
    """Return what the proxies depend on."""
    refine = config.refine
    return {
        "proxy": to_dict(config.proxy),
        "proxy_steps": refine.proxy_steps,
        **({} if refine.youngest_proxy == 1 else {"youngest": refine.youngest_proxy}),
        "count": [refine.num_attempts, len(proxy_ages(config, 1))],
        "robust": refine.robust,
        "augmentation": config.evaluate.student.augmentation,
        "seed": config.seed,
        **machine_settings(config),
    }


def proxy_file(attempt: int, number: int) -> str:
    """Return the name of a proxy's file."""
    return f"proxy-{attempt}-{number}.safetensors"


def run(context: Context) -> StageOutput:
    """Train the proxies of every attempt, several at a time; none where methods train their own."""
    config = context.config
    reals, clusters = open_reals(context), clusters_in(context.inputs["proxy"])

    def train(attempt: int, number: int, on_step: Callable[[int], None]) -> Figures:
        network = train_number(reals, clusters, config, attempt, number, on_step=on_step)
        save_classifier(context.folder / proxy_file(attempt, number), network)
        return {}

    trials = [
        Trial(
            proxy_file(attempt, number), steps, "training proxies", partial(train, attempt, number)
        )
        for attempt in range(1, config.refine.num_attempts + 1)
        for number, steps in enumerate(proxy_ages(config, attempt))
    ]  # fmt: skip
    run_trials(
        trials, store=context.folder / STORE, num_workers=num_workers(config), phase="refine",
        on_progress=context.on_progress,
    )  # fmt: skip
    return StageOutput(f"{len(trials)} proxies")


def load_proxies(folder: Path, reals: Reals, config: DistillConfig) -> ProxyOf:
    """Return the proxies in the folder of the finished stage."""

    def load(attempt: int, number: int) -> Classifier:
        path = folder / proxy_file(attempt, number)
        return reals.load_classifier(path, config.proxy.network).requires_grad_(False)

    return load


STAGE = Stage("refine_proxies", 1, ("prepare", "proxy"), settings, run, aside=(PROXY_STAGE,))
