"""What does a step of fine-tuning cost beside its floor?

Floor: forward, and backward to the input only, of the same frozen DiT on a batch of that size, as
diffusers runs it, and "fast", with our matrix products (finetune/linear.py). Ours: the
whole step, with batch drawing, DiffFit gradients, minimax criteria, memories, AdamW and averages.
All run in turn in one process; the figure is the ratio of medians.

    python -m benchmarks.finetune_step [--threads N] [--repeats N] [--case digits|dit-s2]

Targets: at most 1.15 for DiT-S/2, at most 1.35 for the digits DiT. Writes
benchmarks/results/finetune_step.json with hardware and versions.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import accelerate
import diffusers
import numpy as np
import torch
from diffusers import DiTTransformer2DModel

from distillery.files import write_json
from distillery.models.diffusion import add_noise, alphas_cumprod
from distillery.models.dit import denoise, disable_label_dropout
from finetune.config import FinetuneConfig
from finetune.difffit import apply_difffit
from finetune.latents import CachedLatents, LatentSource, PixelLatents
from finetune.linear import fast_linears
from finetune.loop import FinetuneLoop
from finetune.memory import ClassMemories
from finetune.processes import Processes
from finetune.step import Batches

RESULT = Path(__file__).parent / "results" / "finetune_step.json"
NUM_CLASSES = 10
CASES: dict[str, dict[str, Any]] = {
    "dit-s2": {
        "transformer": {
            "num_attention_heads": 6, "attention_head_dim": 64, "num_layers": 12,
            "sample_size": 32, "in_channels": 4, "out_channels": 8, "num_embeds_ada_norm": 1000,
        },
        "batch_size": 8, "repeats": 12, "target": 1.15,
    },
    "digits": {
        "transformer": {
            "num_attention_heads": 4, "attention_head_dim": 24, "num_layers": 4,
            "sample_size": 8, "in_channels": 1, "out_channels": 1, "num_embeds_ada_norm": 10,
        },
        "batch_size": 64, "repeats": 150, "target": 1.35,
    },
}  # fmt: skip


def build_transformer(config: dict[str, Any], device: torch.device) -> DiTTransformer2DModel:
    """Return a DiT with random weights, drawn on the device, without label dropout."""
    torch.manual_seed(0)
    with device:
        transformer = DiTTransformer2DModel(patch_size=2, **config).requires_grad_(False)
    disable_label_dropout(transformer)
    return transformer.to(device)


def random_latents(config: dict[str, Any], num_items: int = 200) -> LatentSource:
    """Return latents of the size that the transformer takes: cached posteriors, or pixels."""
    rng = np.random.default_rng(0)
    shape = (config["in_channels"], config["sample_size"], config["sample_size"])
    if config["in_channels"] == 1:
        return PixelLatents(rng.integers(0, 256, (num_items, *shape), dtype=np.uint8))
    mean = rng.standard_normal((num_items, 2, *shape), dtype=np.float32)
    return CachedLatents(mean, np.full_like(mean, 0.1))


def our_step(
    case: dict[str, Any], device: torch.device, *, fast: bool = True, precision: str = "no"
) -> Callable[[], None]:
    """Return the whole step, with its memories already full."""
    config = FinetuneConfig(batch_size=case["batch_size"])
    transformer = build_transformer(case["transformer"], device)
    latents = random_latents(case["transformer"])
    labels = torch.arange(len(latents)) % NUM_CLASSES
    processes = Processes(precision, device, config.batch_size)
    null_row = case["transformer"]["num_embeds_ada_norm"]
    batches = Batches(latents, labels, torch.arange(NUM_CLASSES), null_row, 1000, config, 0)
    dim = batches.draw(0, processes).x0[0].numel()
    memories = ClassMemories(NUM_CLASSES, config.memory_size, dim, device)
    for ring in (memories.real, memories.predicted):
        everyone = torch.arange(NUM_CLASSES, device=device).repeat(config.memory_size)
        ring.push(torch.randn(len(everyone), dim, device=device), everyone)
    adapter = apply_difffit(transformer, range(NUM_CLASSES))
    abar = alphas_cumprod("linear")
    loop = FinetuneLoop(adapter, abar, batches, memories, config, processes, "")

    def step() -> None:
        with fast_linears(transformer) if fast else nullcontext():
            loop.take_step()

    return step


def floor_step(
    case: dict[str, Any], device: torch.device, *, fast: bool = False
) -> Callable[[], None]:
    """Return forward, and backward to the input only; `fast`: with our matrix products."""
    transformer = build_transformer(case["transformer"], device)
    size, channels = case["batch_size"], case["transformer"]["in_channels"]
    side = case["transformer"]["sample_size"]
    x0, noise = torch.randn(2, size, channels, side, side, device=device)
    timesteps = torch.randint(1000, (size,), device=device)
    rows = torch.randint(NUM_CLASSES, (size,), device=device)
    noisy = add_noise(x0, noise, timesteps, alphas_cumprod("linear").to(device))

    def step() -> None:
        x = noisy.detach().requires_grad_()
        with fast_linears(transformer) if fast else nullcontext():
            eps = denoise(transformer, x, timesteps, rows)[:, :channels]
            (eps - noise).square().mean().backward()

    return step


def timed(step: Callable[[], None], device: torch.device) -> float:
    """Return the seconds of one call, until the device has finished."""
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(case: dict[str, Any], repeats: int, device: torch.device) -> dict[str, Any]:
    """Return medians in milliseconds and their ratio; the two steps take turns."""
    steps = {
        "floor": floor_step(case, device),
        "floor_fast": floor_step(case, device, fast=True),
        "ours": our_step(case, device),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats + 2):
        for name, step in steps.items():
            taken = timed(step, device)
            if repeat >= 2:  # the first two warm up
                seconds[name].append(taken)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = [ours / floor for ours, floor in zip(seconds["ours"], seconds["floor"], strict=True)]
    quartiles = statistics.quantiles(ratios, n=4)
    return {
        "floor_ms": round(medians["floor"] * 1e3, 3),
        "floor_fast_ms": round(medians["floor_fast"] * 1e3, 3),
        "ours_ms": round(medians["ours"] * 1e3, 3),
        "ratio": round(medians["ours"] / medians["floor"], 3),
        "ratio_to_floor_fast": round(medians["ours"] / medians["floor_fast"], 3),
        "ratio_quartiles": [round(value, 3) for value in quartiles],
        "target": case["target"],
        "repeats": repeats,
    }


def hardware(device: torch.device) -> dict[str, Any]:
    """Say what this ran on, and with which versions."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor()
    cpu = Path("/proc/cpuinfo")
    if device.type == "cpu" and cpu.exists():
        lines = [line for line in cpu.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].partition(":")[2].strip() if lines else name
    return {
        "device": name, "threads": torch.get_num_threads(), "python": platform.python_version(),
        "torch": torch.__version__, "diffusers": diffusers.__version__,
        "accelerate": accelerate.__version__,
    }  # fmt: skip


def main() -> None:
    """Measure the cases that were asked for, print them and store them."""
    parser = argparse.ArgumentParser(description="cost of a fine-tuning step beside its floor")
    parser.add_argument("--threads", type=int, default=1, help="as a job of the digits has")
    parser.add_argument("--repeats", type=int, default=None)
    parser.add_argument("--case", choices=CASES, default=None)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    results = {}
    for name, case in CASES.items():
        if options.case in (None, name):
            results[name] = measure(case, options.repeats or case["repeats"], device)
            print(name, results[name])
    if options.case is None:
        RESULT.parent.mkdir(exist_ok=True)
        write_json(RESULT, {"hardware": hardware(device), "results": results})


if __name__ == "__main__":
    main()
