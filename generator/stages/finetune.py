"""Stage finetune: a DiffFit adapter for each group of at most 20 classes, with minimax memories.

A guard samples a few images now and then; where a judge of real images no longer recognises them,
the run stops and the adapter is the last one that passed.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
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
from generator.defaults import default_guidance
from generator.noise import noise_seed
from generator.sampler import Precision, match_channels, sample_images
from generator.stage import Context, Stage, StageOutput
from generator.stages.base import JUDGE
from generator.stages.common import Reals, machine_settings, open_base, open_reals
from generator.stages.encode import LATENTS

CURVES = "curves.json"
GUARD_IMAGES = 64
GUARD_STEPS = 8
GUARD_IPC = 10
"""The guard samples with the guidance of this many images per class: jobs share adapters."""


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
    """Train one adapter after the other; finished ones are kept."""
    if not context.config.finetune.enabled:
        write_json(context.folder / CURVES, [])
        return StageOutput("switched off: the base samples as it is")
    reals = open_reals(context)
    _, labels = reals.dataset.split("train")
    groups = class_groups(reals.num_classes, context.config.finetune.classes_per_group)
    latents = _latents(context, reals)
    records = []
    for number, group in enumerate(groups):
        record = context.folder / f"checkpoint-record-{number:04d}.json"
        if not record.exists():
            result = _train_group(context, reals, latents, labels, number, group)
            write_tensors(adapter_path(context.folder, number), result.adapter)
            write_json(record, _record(group, result))
        records.append(read_json(record))
    write_json(context.folder / CURVES, [record["curves"] for record in records])
    stopped = [record["stopped"] for record in records if record["stopped"]]
    config = context.config.finetune
    summary = (
        f"{len(groups)} adapter(s), {records[0]['num_steps_done']} steps of {config.batch_size}, "
        f"minimax {config.preset} (representativeness {config.representativeness_weight}, "
        f"diversity {config.diversity_weight})"
    )
    if stopped:
        summary += f"; stopped early by the fidelity guard: {stopped[0]}"
    return StageOutput(summary, {"stopped": stopped})


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
    context: Context, reals: Reals, latents: LatentSource, labels: np.ndarray, number: int,
    group: Sequence[int],
) -> FinetuneResult:  # fmt: skip
    """Return the adapter of one group."""
    base, rows = open_base(context)
    members = np.flatnonzero(np.isin(labels, group))
    groups = f" (classes {group[0]} to {group[-1]})" if len(group) < reals.num_classes else ""
    return finetune(
        base.transformer,
        alphas_cumprod=base.alphas_cumprod,
        null_row=base.null_row,
        latents=_Subset(latents, members),
        labels=labels[members] - group[0],
        class_rows=rows[list(group)],
        config=context.config.finetune,
        seed=derive_seed(context.config.seed, "finetune", number),
        checkpoint=context.checkpoint(f"group-{number:04d}"),
        check=_guard(context, reals, base, rows, group),
        on_progress=lambda p: context.on_progress(
            Progress("finetune", p.step, p.total, p.message + groups, p.metrics)
        ),
    )


def _guard(
    context: Context, reals: Reals, base: DiffusionBase, rows: np.ndarray, group: Sequence[int]
) -> Callable[[nn.Module], float]:
    """Return the check of fidelity: the share of a few samples that the judge recognises."""
    judge = reals.load_classifier(context.inputs["base"] / JUDGE, context.config.proxy.network)
    per_class = max(1, GUARD_IMAGES // len(group))
    jobs = [(label, index) for label in group for index in range(per_class)]
    seeds = [noise_seed(derive_seed(context.config.seed, "guard"), *job) for job in jobs]
    labels = np.array([label for label, _ in jobs])
    precision: Precision = "bf16" if context.config.finetune.precision == "bf16" else "no"

    def check(transformer: nn.Module) -> float:
        raw = sample_images(
            replace(base, transformer=transformer), seeds, rows[labels], num_steps=GUARD_STEPS,
            guidance_scale=default_guidance(base.kind, GUARD_IPC), precision=precision,
        )  # fmt: skip
        images = reals.normalised(match_channels(raw, reals.dataset.channels).numpy())
        return accuracy(judge, images, torch.from_numpy(labels).to(reals.device))

    return check


STAGE = Stage("finetune", 2, ("prepare", "base", "encode"), settings, run, is_shared=True)
