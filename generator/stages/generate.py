"""Stage generate: the pool of candidates, and the plain samples of the base as a control.

Batches are cut at fixed (class, index) ranges, and each is one file: a killed run goes on at the
next batch and ends with the same bytes. Every image has its own noise (`generator.noise`). The
samples of each group of classes are a part of the stage, and so are the plain ones, the last part.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distillery.data.dataset import Dataset
from distillery.evaluation.training import accuracy
from distillery.models.base import DiffusionBase
from distillery.progress import Progress
from distillery.tensorfile import read_tensors, write_tensors
from generator.adapters import with_adapter
from generator.config import DistillConfig, to_dict
from generator.noise import noise_seed
from generator.sampler import match_channels, sample_images
from generator.stage import Context, Parts, Stage, StageOutput
from generator.stages.base import JUDGE
from generator.stages.common import machine_settings, open_base, open_reals
from generator.stages.finetune import groups_of

POOL, PLAIN, PART = "pool.safetensors", "plain.safetensors", "part.safetensors"
BATCHES = ("checkpoint-pool-", "checkpoint-plain-")
"""How the names of a part's finished batches begin: of candidates, and of the plain control."""


def settings(config: DistillConfig) -> dict[str, Any]:
    """Return what the candidates depend on."""
    return {
        "generate": to_dict(config.generate),
        "seed": config.seed,
        "pool_per_class": pool_per_class(config),
        "plain_per_class": plain_per_class(config),
        "classes_per_group": config.finetune.classes_per_group,
        **machine_settings(config),
    }


def pool_per_class(config: DistillConfig) -> int:
    """Return the number of candidates of each class."""
    assert config.generate.oversample is not None
    return config.images_per_class * config.generate.oversample


def plain_per_class(config: DistillConfig) -> int:
    """Return the number of control samples of the base as it is."""
    return config.images_per_class if config.evaluate.controls else 0


def run(context: Context) -> StageOutput:
    """Sample what is not there yet, gather it in one pool, and judge its fidelity."""
    config = context.config
    num_groups, per_class = len(groups_of(context)), pool_per_class(config)
    num_classes = len(context.facts("base")["rows"])
    base = cache(lambda: open_base(context))  # once, for all that this process samples
    folders = [run_part(context, number, base) for number in range(count_parts(context))]
    parts = [read_tensors(folder / PART)[0] for folder in folders]
    if plain_per_class(config):
        _write(context, PLAIN, parts[num_groups:])
    pool = _write(context, POOL, parts[:num_groups])
    fidelity = _fidelity(context, pool)
    floor = fidelity_floor(
        config.generate.fidelity_floor, context.facts("base")["judge_accuracy"], num_classes
    )
    facts = {"fidelity": fidelity, "is_faithful": bool(fidelity >= floor), "floor": floor}
    summary = (
        f"{per_class} candidates a class, {config.generate.num_steps} steps of "
        f"{config.generate.sampler}, guidance {config.generate.guidance_scale}; a judge of real "
        f"images agrees with {100 * fidelity:.1f} % of their labels"
    )
    return StageOutput(summary, facts)


def fidelity_floor(share: float, judge_accuracy: float, num_classes: int) -> float:
    """Return the share of candidates that the judge must recognise.

    It lies `share` of the way from chance to what the judge reaches on real images; a judge that
    hardly beats chance itself asks for a little more than chance. A share of 0 asks for nothing.
    """
    if share == 0:
        return 0.0
    chance = 1 / num_classes
    return chance + share * max(judge_accuracy - chance, 0.5 * chance)


def _jobs(labels: Sequence[int] | range, per_class: int) -> list[tuple[int, int]]:
    """Return the (class, index) of every image, in order."""
    return [(label, index) for label in labels for index in range(per_class)]


def count_parts(context: Context) -> int:
    """Return the number of class groups, and one more where there is a plain control."""
    return len(groups_of(context)) + bool(plain_per_class(context.config))


def _part_jobs(context: Context, number: int) -> list[tuple[int, int]]:
    """Return what the part of a number samples."""
    groups = groups_of(context)
    if number < len(groups):
        return _jobs(groups[number], pool_per_class(context.config))
    return _jobs(range(groups[-1].stop), plain_per_class(context.config))


def run_part(
    context: Context,
    number: int,
    base: Callable[[], tuple[DiffusionBase, np.ndarray]] | None = None,
) -> Path:
    """Sample one part, unless it is there; returns its folder.

    Args:
        context: Of the stage.
        number: Of the class group; the number of groups for the plain control.
        base: Opens the base; None: opened here.
    """

    def work(part: Context) -> None:
        opened, rows = base() if base is not None else open_base(part)
        if number < len(groups_of(part)) and part.config.finetune.enabled:
            opened = with_adapter(opened, part.inputs["finetune"], number)
        write_tensors(part.folder / PART, _sample(part, opened, rows, number))

    return context.part(number, work)


class _Counter:
    """Counts finished images over all parts of the stage."""

    def __init__(self, context: Context) -> None:
        self.context = context
        sizes = [len(_part_jobs(context, number)) for number in range(count_parts(context))]
        self.total = sum(sizes)
        self.done = float(sum(sizes[number] for number in context.finished_parts()))

    def add(self, images: float) -> None:
        self.done += images
        self.context.on_progress(Progress("generate", round(self.done), self.total))


def _sample(
    context: Context, base: DiffusionBase, rows: np.ndarray, number: int
) -> dict[str, np.ndarray]:
    """Return images, labels and seeds of one part; finished batches are read back."""
    size, jobs = context.config.generate.batch_size, _part_jobs(context, number)
    report, batches = _Counter(context), []
    is_plain = number == len(groups_of(context))
    for batch_number, start in enumerate(range(0, len(jobs), size)):
        path = context.folder / f"{BATCHES[is_plain]}{batch_number:05d}.safetensors"
        part = jobs[start : start + size]
        if path.exists():
            report.add(len(part))
        else:
            share = len(part) / context.config.generate.num_steps
            batch = _sample_batch(context, base, rows, part, partial(report.add, share))
            write_tensors(path, batch)
        batches.append(read_tensors(path)[0])
    return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}


def _sample_batch(
    context: Context, base: DiffusionBase, rows: np.ndarray, part: list[tuple[int, int]],
    on_step: Callable[[], None],
) -> dict[str, np.ndarray]:  # fmt: skip
    """Return raw images, labels and seeds of one batch."""
    settings = context.config.generate
    assert settings.guidance_scale is not None
    seeds = [noise_seed(context.config.seed, label, index) for label, index in part]
    labels = np.array([label for label, _ in part], np.int64)
    raw = sample_images(
        base, seeds, rows[labels],
        sampler=settings.sampler, num_steps=settings.num_steps,
        guidance_scale=settings.guidance_scale, precision=settings.precision, on_step=on_step,
    )  # fmt: skip
    channels = Dataset.load(context.inputs["prepare"]).channels
    images = match_channels(raw, channels).numpy()
    return {"images": images, "labels": labels, "seeds": np.array(seeds, np.int64)}


def _write(
    context: Context, name: str, parts: list[dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Join the parts and write one file."""
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    write_tensors(context.folder / name, joined)
    return joined


def _fidelity(context: Context, pool: dict[str, np.ndarray]) -> float:
    """Return the share of the pool that the judge of real images labels rightly."""
    reals = open_reals(context)
    judge = reals.load_classifier(context.inputs["base"] / JUDGE, context.config.proxy.network)
    labels = torch.from_numpy(pool["labels"]).to(reals.device)
    return accuracy(judge, reals.normalised(pool["images"]), labels)


STAGE = Stage(
    "generate",
    2,
    ("prepare", "base", "finetune"),
    settings,
    run,
    parts=Parts(count_parts, run_part),
)
