"""Stage finetune: a DiffFit adapter for each group of at most 20 classes, with minimax memories.

Groups are parts of the stage: other processes can train theirs ahead of it, with the same bytes.
A guard samples a few images now and then; where a judge of real images no longer recognises them,
the run stops and the adapter is the last one that passed.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distillery.evaluation.training import accuracy
from distillery.files import read_json, write_json
from distillery.models.base import DiffusionBase
from distillery.progress import Progress
from distillery.seeds import derive_seed
from distillery.tensorfile import map_tensors, write_tensors
from finetune.groups import class_groups
from finetune.latents import CachedLatents, LatentSource, PixelLatents
from finetune.trainer import FinetuneResult, finetune
from generator.adapters import adapter_path
from generator.config import DistillConfig, to_dict
from generator.defaults import GUARD_IPC, default_guidance
from generator.noise import noise_seed
from generator.sampler import Precision, match_channels, sample_images
from generator.stage import Context, Parts, Stage, StageOutput
from generator.stages.base import JUDGE
from generator.stages.common import Reals, machine_settings, open_base, open_reals
from generator.stages.encode import LATENTS

CURVES, GROUP = "curves.json", "group.json"


def settings(config: DistillConfig) -> dict[str, Any]:
    """Return what the adapters depend on."""
    if not config.finetune.enabled:
        return {"enabled": False}
    return {
        "finetune": to_dict(config.finetune),
        "flip": config.horizontal_flip,
        "seed": config.seed,
        **machine_settings(config),
    }


def run(context: Context) -> StageOutput:
    """Train the adapters that are not there yet, one after the other, and gather them all."""
    if not context.config.finetune.enabled:
        write_json(context.folder / CURVES, [])
        return StageOutput("switched off: the base samples as it is")
    records = []
    for number in range(count_groups(context)):
        folder = run_group(context, number)
        shutil.copyfile(adapter_path(folder, number), adapter_path(context.folder, number))
        records.append(read_json(folder / GROUP))
    write_json(context.folder / CURVES, [record["curves"] for record in records])
    stopped = [record["stopped"] for record in records if record["stopped"]]
    config = context.config.finetune
    summary = (
        f"{len(records)} adapter(s), {records[0]['num_steps_done']} steps of {config.batch_size}, "
        f"minimax {config.preset} (representativeness {config.representativeness_weight}, "
        f"diversity {config.diversity_weight})"
    )
    if stopped:
        summary += f"; stopped early by the fidelity guard: {stopped[0]}"
    return StageOutput(summary, {"stopped": stopped})


def groups_of(context: Context) -> list[range]:
    """Return the classes of each adapter."""
    num_classes = len(context.facts("base")["rows"])
    return class_groups(num_classes, context.config.finetune.classes_per_group)


def count_groups(context: Context) -> int:
    """Return the number of adapters."""
    return len(groups_of(context)) if context.config.finetune.enabled else 1


def run_group(context: Context, number: int) -> Path:
    """Train one adapter, unless it is there; returns its folder."""

    def work(part: Context) -> None:
        reals = open_reals(part)
        result = _train_group(part, reals, _latents(part, reals), number)
        write_tensors(adapter_path(part.folder, number), result.adapter)
        write_json(part.folder / GROUP, _record(groups_of(part)[number], result))

    return context.part(number, work)


def _record(group: Sequence[int], result: FinetuneResult) -> dict[str, Any]:
    """Return what is kept of a finished adapter beside its weights."""
    return {
        "classes": list(group),
        "num_steps_done": result.num_steps_done,
        "stopped": result.stopped,
        "curves": {name: list(values) for name, values in result.curves.items()},
    }


def _latents(context: Context, reals: Reals) -> LatentSource:
    """Return the train split as the base sees it."""
    if context.facts("base")["kind"] == "pixel":
        images, _ = reals.dataset.split("train")
        return PixelLatents(images, flip=bool(context.config.horizontal_flip))
    arrays = map_tensors(context.inputs["encode"] / LATENTS)
    return CachedLatents(arrays["mean"], arrays["std"])


class _Subset:
    """The latents of one group of classes."""

    def __init__(self, latents: LatentSource, members: np.ndarray) -> None:
        self.latents, self.members = latents, torch.from_numpy(members)

    def __len__(self) -> int:
        return len(self.members)

    def batch(self, indices: Tensor, flips: Tensor, generator: torch.Generator) -> Tensor:
        return self.latents.batch(self.members[indices], flips, generator)


def _train_group(
    context: Context, reals: Reals, latents: LatentSource, number: int
) -> FinetuneResult:
    """Return the adapter of one group."""
    base, rows = open_base(context)
    groups = groups_of(context)
    group = groups[number]
    _, labels = reals.dataset.split("train")
    members = np.flatnonzero(np.isin(labels, group))
    text = f" (classes {group[0]} to {group[-1]})" if len(groups) > 1 else ""

    def tell(progress: Progress) -> None:
        """Count the steps of all groups, those that others have finished among them."""
        step = len(context.finished_parts()) * progress.total + progress.step
        total = len(groups) * progress.total
        message = progress.message + text
        context.on_progress(Progress("finetune", step, total, message, progress.metrics))

    return finetune(
        base.transformer,
        alphas_cumprod=base.alphas_cumprod,
        null_row=base.null_row,
        latents=_Subset(latents, members),
        labels=labels[members] - group[0],
        class_rows=rows[list(group)],
        config=context.config.finetune,
        seed=derive_seed(context.config.seed, "finetune", number),
        checkpoint=context.checkpoint(),
        check=_guard(context, reals, base, rows, group),
        on_progress=tell,
    )


def _guard(
    context: Context, reals: Reals, base: DiffusionBase, rows: np.ndarray, group: Sequence[int]
) -> Callable[[nn.Module], float]:
    """Return the check of fidelity: the share of a few samples that the judge recognises."""
    judge = reals.load_classifier(context.inputs["base"] / JUDGE, context.config.proxy.network)
    tune = context.config.finetune
    per_class = max(1, tune.guard_images // len(group))
    jobs = [(label, index) for label in group for index in range(per_class)]
    seeds = [noise_seed(derive_seed(context.config.seed, "guard"), *job) for job in jobs]
    labels = np.array([label for label, _ in jobs])
    precision: Precision = "bf16" if tune.precision == "bf16" else "no"

    def check(transformer: nn.Module) -> float:
        raw = sample_images(
            replace(base, transformer=transformer), seeds, rows[labels], num_steps=tune.guard_steps,
            guidance_scale=default_guidance(base.kind, GUARD_IPC), precision=precision,
        )  # fmt: skip
        images = reals.normalised(match_channels(raw, reals.dataset.channels).numpy())
        return accuracy(judge, images, torch.from_numpy(labels).to(reals.device))

    return check


STAGE = Stage(
    "finetune", 2, ("prepare", "base", "encode"), settings, run, is_shared=True,
    parts=Parts(count_groups, run_group),
)  # fmt: skip
