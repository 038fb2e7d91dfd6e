"""Stage generate: the pool of candidates, and the plain samples of the base as a control.

Batches are cut at fixed (class, index) ranges, and each is one file: a killed run goes on at the
next batch and ends with the same bytes. Every image has its own noise (`generator.noise`).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from distillery.data.dataset import Dataset
from distillery.evaluation.training import accuracy
from distillery.models.base import DiffusionBase
from distillery.progress import Progress
from distillery.tensorfile import read_tensors, write_tensors
from finetune.groups import class_groups
from generator.adapters import load_adapter
from generator.config import DistillConfig, to_dict
from generator.noise import initial_noise, noise_seed
from generator.sampler import sample_latents
from generator.stage import Context, Stage, StageOutput
from generator.stages.base import JUDGE
from generator.stages.common import load_classifier, open_base, open_reals

POOL, PLAIN = "pool.safetensors", "plain.safetensors"


def settings(config: DistillConfig) -> dict[str, Any]:
    """Return what the candidates depend on."""
    return {
        "generate": to_dict(config.generate),
        "seed": config.seed,
        "pool_per_class": pool_per_class(config),
        "plain_per_class": plain_per_class(config),
        "num_threads": config.num_threads,
    }


def pool_per_class(config: DistillConfig) -> int:
    """Return the number of candidates of each class."""
    assert config.generate.oversample is not None
    return config.images_per_class * config.generate.oversample


def plain_per_class(config: DistillConfig) -> int:
    """Return the number of control samples of the base as it is."""
    return config.images_per_class if config.evaluate.controls else 0


def run(context: Context) -> StageOutput:
    """Sample the pool from each group's adapter, then the plain control, and judge fidelity."""
    config = context.config
    base, rows = open_base(context)
    num_classes, per_class = len(rows), pool_per_class(config)
    group_ranges = class_groups(num_classes, config.finetune.classes_per_group)
    plain = plain_per_class(config)
    report = _Counter(context, num_classes * (per_class + plain))
    parts = []
    if plain:
        jobs = _jobs(range(num_classes), plain)
        _write(context, PLAIN, [_sample(context, base, rows, "plain", jobs, report)])
    for number, labels in enumerate(group_ranges):
        if config.finetune.enabled:
            base, _ = open_base(context)
            load_adapter(base.transformer, context.inputs["finetune"], number)
        jobs = _jobs(labels, per_class)
        parts.append(_sample(context, base, rows, f"g{number}", jobs, report))
    pool = _write(context, POOL, parts)
    fidelity = _fidelity(context, pool)
    floor = config.generate.fidelity_floor
    facts = {"fidelity": fidelity, "is_faithful": bool(fidelity >= floor), "floor": floor}
    summary = (
        f"{per_class} candidates a class, {config.generate.num_steps} steps of "
        f"{config.generate.sampler}, guidance {config.generate.guidance_scale}; a judge of real "
        f"images agrees with {100 * fidelity:.1f} % of their labels"
    )
    return StageOutput(summary, facts)


def _jobs(labels: Sequence[int] | range, per_class: int) -> list[tuple[int, int]]:
    """Return the (class, index) of every image, in order."""
    return [(label, index) for label in labels for index in range(per_class)]


class _Counter:
    """Counts finished images over all parts of the stage."""

    def __init__(self, context: Context, total: int) -> None:
        self.context, self.total, self.done = context, total, 0.0

    def add(self, images: float) -> None:
        self.done += images
        self.context.on_progress(Progress("generate", round(self.done), self.total))


def _sample(
    context: Context, base: DiffusionBase, rows: np.ndarray, name: str,
    jobs: list[tuple[int, int]], report: _Counter,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Return images, labels and seeds of some jobs; finished batches are read back."""
    size = context.config.generate.batch_size
    batches = []
    for number, start in enumerate(range(0, len(jobs), size)):
        path = context.folder / f"checkpoint-{name}-{number:05d}.safetensors"
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
    latents = sample_latents(
        base.transformer.eval(),
        initial_noise(seeds, base.latent_shape),
        torch.from_numpy(rows[labels]),
        alphas_cumprod=base.alphas_cumprod,
        null_row=base.null_row,
        sampler=settings.sampler,
        num_steps=settings.num_steps,
        guidance_scale=settings.guidance_scale,
        on_step=on_step,
    )
    with torch.inference_mode():
        images = base.codec.decode(latents)
    raw = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    return {"images": raw, "labels": labels, "seeds": np.array(seeds, np.int64)}


def _write(
    context: Context, name: str, parts: list[dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Join the parts, match the dataset's channels, and write one file."""
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    channels = Dataset.load(context.inputs["prepare"]).channels
    if channels == 1 and joined["images"].shape[1] == 3:  # a colour base, gray data
        joined["images"] = joined["images"].mean(1, keepdims=True).round().astype(np.uint8)
    write_tensors(context.folder / name, joined)
    return joined


def _fidelity(context: Context, pool: dict[str, np.ndarray]) -> float:
    """Return the share of the pool that the judge of real images labels rightly."""
    reals = open_reals(context)
    path = context.inputs["base"] / JUDGE
    judge = load_classifier(path, context.config.proxy.network, reals.dataset)
    images = reals.normalisation.normalise(torch.from_numpy(pool["images"]))
    return accuracy(judge, images, torch.from_numpy(pool["labels"]))


STAGE = Stage("generate", 1, ("prepare", "base", "finetune"), settings, run)
