"""Tiny DiT pipelines and datasets of the published kinds, and one call that runs a job on them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

from distillery.machine import Machine
from distillery.models.initialise import seeded_weights
from distillery.progress import ignore_progress
from distillery.tensorfile import write_tensors
from generator.pipeline import JobResult, run_job, start_job
from generator.plan import make_plan
from generator.planned import Plan

MACHINE = Machine(num_cores=1, memory_bytes=8 * 2**30, gpu=None, gpu_memory_bytes=0)


def write_pipeline(folder: Path, *, image_size: int, id2label: Mapping[int, str]) -> Path:
    """Write a random DiT pipeline in the published layout, ImageNet's 1000 rows."""
    widths = (8,) * (image_size // 8).bit_length()  # latents of 8 pixels
    with seeded_weights(0):
        transformer = DiTTransformer2DModel(
            num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8,
            num_layers=2, sample_size=8, patch_size=2, num_embeds_ada_norm=1000,
        )  # fmt: skip
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * len(widths), norm_num_groups=4,
            up_block_types=("UpDecoderBlock2D",) * len(widths), block_out_channels=widths,
            latent_channels=4, sample_size=image_size,
        )  # fmt: skip
    DiTPipeline(transformer, vae, DDIMScheduler(clip_sample=False)).save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["id2label"] = {str(row): label for row, label in id2label.items()}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def write_dataset(path: Path, names: list[str], *, size: int, channels: int, count: int) -> Path:
    """Write random images, `count` a class, each class around its own brightness."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(names)), count)
    images = rng.integers(0, 60, (len(labels), channels, size, size), dtype=np.uint8)
    images += (labels * 190 // len(names)).astype(np.uint8)[:, None, None, None]
    write_tensors(path, {"images": images, "labels": labels}, {"classes": json.dumps(names)})
    return path


def plan_of(request: Mapping[str, Any], cache: Path, machine: Machine = MACHINE) -> Plan:
    return make_plan(request, cache=cache, machine=machine)


def run(request: Mapping[str, Any], root: Path, machine: Machine = MACHINE) -> JobResult:
    """Plan and run a job in `root/job`, sharing `root/cache`."""
    plan = plan_of(request, root / "cache", machine)
    job = start_job(root / "job", request, plan)
    return run_job(root / "job", job, cache=root / "cache", on_progress=ignore_progress)


def facts(result: JobResult, stage: str) -> dict[str, Any]:
    return next(s.record["facts"] for s in result.stages if s.name == stage)
