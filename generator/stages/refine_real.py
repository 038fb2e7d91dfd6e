"""Aside: the real start, k-medoids of real images, refined; it waits for no generator.

Here is also how a start is refined and kept on disk, which stage refine does with its own alike.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from distillery.checkpoint import Checkpoint
from distillery.models.codec import Codec
from distillery.progress import Progress
from distillery.seeds import derive_seed
from distillery.tensorfile import read_tensors, write_tensors
from generator.config import DistillConfig, key_dict, to_dict
from generator.real_start import real_start
from generator.refinement import ProxyOf, Refined, SetScorer, refine_images
from generator.stage import Context, Stage, StageOutput
from generator.stages.common import CLUSTERED_PX, Reals, machine_settings, open_reals
from generator.stages.proxies import STAGE as PROXIES_STAGE
from generator.stages.proxies import load_proxies
from generator.stages.proxy import PROXY, clusters_in
from generator.stages.proxy import STAGE as PROXY_STAGE
from generator.starts import Start

Arrays = dict[str, np.ndarray]
SEEDS: Mapping[Start, tuple[str, ...]] = {"generated": ("refine",), "real": ("refine", "real")}
MESSAGES: Mapping[Start, str] = {
    "generated": "the chosen images", "real": "k-medoids of real images",
}  # fmt: skip
"""How the progress of a start is worded."""
START = "start.safetensors"


def settings(config: DistillConfig) -> dict[str, Any]:
    """Return what the refined images of any start depend on."""
    return {
        "refine": key_dict(config.refine),
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


def run(context: Context) -> StageOutput:
    """Choose the medoids in the features of the proxy, and refine them."""
    config, reals = context.config, open_reals(context)
    start = medoid_start(reals, context.inputs["proxy"], config)
    write_tensors(context.folder / START, start)
    refined = refine_start(
        context, "real", start, reals, scorer=SetScorer(reals, config),
        proxy_of=load_proxies(context.inputs["refine_proxies"], reals, config),
    )  # fmt: skip
    return StageOutput(f"{len(refined.images)} images, attempt {refined.kept} is kept")


def is_aside(config: DistillConfig) -> bool:
    """Say whether the real start is refined aside: latents need the base's autoencoder."""
    return config.refine.parameterisation != "latent"


def medoid_start(reals: Reals, folder: Path, config: DistillConfig) -> Arrays:
    """Return the medoids in the features of the proxy that a folder holds with the clusters."""
    network = reals.load_classifier(folder / PROXY, config.proxy.network)
    return real_start(reals, network, clusters_in(folder), config)


def refined_file(start: Start) -> str:
    """Return the name of the file that holds the refined set of a start."""
    return f"refined-{start}.safetensors"


def refine_start(
    context: Context, start: Start, arrays: Arrays, reals: Reals, *, scorer: SetScorer,
    proxy_of: ProxyOf, codec: Codec | None = None,
) -> Refined:  # fmt: skip
    """Return the best set of a start, read where a killed run has finished it."""
    path = context.folder / refined_file(start)

    def tell(progress: Progress) -> None:
        words = filter(None, (MESSAGES[start], progress.message))
        context.on_progress(replace(progress, message=" ".join(words)))

    if not path.exists():
        refined = refine_images(
            arrays["images"], arrays["labels"], reals, context.config,
            scorer=scorer, proxy_of=proxy_of,
            seed=derive_seed(context.config.seed, *SEEDS[start]),
            checkpoint=partial(_checkpoint, context, start), on_progress=tell, codec=codec,
        )  # fmt: skip
        _write_finished(path, refined)
    return read_finished(context.folder, start)


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


def read_finished(folder: Path, start: Start) -> Refined:
    """Return the refined set of a start that a folder holds."""
    arrays, metadata = read_tensors(folder / refined_file(start))
    facts = json.loads(metadata["facts"])
    return Refined(
        arrays["images"], arrays["labels"], facts["losses"], facts["scores"], facts["kept"],
        arrays["validation_losses"],
    )  # fmt: skip


STAGE = Stage(
    "refine_real", 2, ("prepare", "proxy", "refine_proxies"), settings, run,
    aside=(PROXY_STAGE, PROXIES_STAGE),
)  # fmt: skip
