"""How much faster per image are batches of 64 than one image at a time, on this CPU?

The digits DiT with its default sampler and guidance, noise to raw pixels, every image from its own
seed. Both ways take turns in one process; the figure is the ratio of median times per image. The
images of both ways must agree within one grey level.

    python -m benchmarks.sampling_batch [--threads N] [--repeats N]

Target: at least 3. Writes benchmarks/results/sampling_batch.json with hardware and versions.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.jobs import save
from distillery.machine import keep_large_buffers
from distillery.models.base import DiffusionBase, pixel_base
from distillery.models.config import PixelDiTConfig
from distillery.models.dit import build_pixel_dit
from generator.sampler import sample_images

TARGET = 3.0
BATCH_SIZE = 64
NUM_SINGLE = 6
"""Images sampled one at a time in each repeat."""
SOLVER: dict[str, Any] = {"num_steps": 15, "guidance_scale": 1.5}


def digits_base() -> DiffusionBase:
    """Return the digits DiT with random weights, which cost what trained ones cost."""
    config = PixelDiTConfig.for_images(8, 1, 10)
    names = [str(digit) for digit in range(10)]
    return pixel_base(build_pixel_dit(config, 0).eval(), config, names, reference="benchmark")


def sample(base: DiffusionBase, seeds: list[int]) -> tuple[float, np.ndarray]:
    """Return seconds per image and the images."""
    started = time.perf_counter()
    images = sample_images(base, seeds, np.array(seeds) % 10, **SOLVER)
    return (time.perf_counter() - started) / len(seeds), images.numpy()


def measure(repeats: int) -> dict[str, Any]:
    """Return times per image of both ways and their ratio."""
    base, batched, single = digits_base(), [], []
    worst = 0
    for repeat in range(repeats + 1):
        seconds, images = sample(base, list(range(BATCH_SIZE)))
        alone = [sample(base, [seed]) for seed in range(NUM_SINGLE)]
        together = images[:NUM_SINGLE].astype(int)
        worst = max(worst, int(np.abs(np.concatenate([i for _, i in alone]) - together).max()))
        if repeat:  # the first one warms up
            batched.append(seconds)
            single.append(statistics.median(seconds for seconds, _ in alone))
    ratios = [one / many for one, many in zip(single, batched, strict=True)]
    return {
        "batch_ms_per_image": round(statistics.median(batched) * 1e3, 3),
        "single_ms_per_image": round(statistics.median(single) * 1e3, 3),
        "ratio": round(statistics.median(ratios), 2),
        "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
        "target": TARGET,
        "worst_difference_in_grey_levels": worst,
        "repeats": repeats,
        "threads": torch.get_num_threads(),
        "batch_size": BATCH_SIZE,
        **SOLVER,
    }


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    keep_large_buffers()
    result = measure(options.repeats)
    print(result)
    save(f"{Path(__file__).stem}.json", {"question": __doc__.splitlines()[0], **result})


if __name__ == "__main__":
    main()
