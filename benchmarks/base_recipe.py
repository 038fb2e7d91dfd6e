"""What each part of the pretraining recipe gives the digits base: samples against held-out images.

Fidelity is the share of samples that a judge of real images labels rightly; coverage the mean
distance from a validation image to the nearest sample of its class, in pixels scaled to [-1, 1];
the Frechet distance compares pixels of samples and of training and validation images. Guidance 1.5,
50 samples a class, three base seeds. The test split is not read.

    python -m benchmarks.base_recipe [--folder DIR] [--seeds 3]

Writes benchmarks/results/base_recipe.json. About 15 minutes on one CPU core; resumable.
"""

import argparse
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from benchmarks.jobs import save
from benchmarks.minimax_terms import sample
from distillery.checkpoint import Checkpoint
from distillery.data.dataset import Dataset
from distillery.evaluation.training import accuracy
from distillery.files import read_json, write_json
from distillery.models.base import pixel_base
from distillery.models.config import PixelDiTConfig
from distillery.models.diffusion import alphas_cumprod
from distillery.models.dit import build_pixel_dit
from distillery.progress import ignore_progress
from finetune import pretrain as pretraining
from finetune.config import PretrainConfig
from generator.config import DistillConfig
from generator.stage import run_stage
from generator.stages import prepare
from generator.stages.base import judge_recipe
from generator.stages.common import Reals, fit_classifier, reals_of

FORMER: dict[str, Any] = {"learning_rate": 3e-3, "max_snr": None}
FREE, USUAL = "timesteps drawn freely", "usual Adam betas"
VARIANTS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "former recipe, 2,400 steps": (FORMER | {"num_steps": 2400}, (FREE, USUAL)),
    "former recipe": (FORMER, (FREE, USUAL)),
    "+ spread timesteps": (FORMER, (USUAL,)),
    "+ min-SNR weights": ({"learning_rate": 3e-3}, (USUAL,)),
    "+ learning rate .005": ({}, (USUAL,)),
    "+ beta 2 of .99: the default": ({}, ()),
}
"""Name -> settings that are not the default, and parts of the recipe that are taken back."""
FIGURES = ("fidelity", "coverage", "frechet", "seconds")


def drawn_freely(count: int, num_timesteps: int, generator: torch.Generator) -> Tensor:
    """Return timesteps (B,) that know nothing of each other."""
    return torch.randint(num_timesteps, (count,), generator=generator)


def taken_back(parts: Sequence[str]) -> ExitStack:
    """Return the context in which parts of the recipe are as they were."""
    stack = ExitStack()
    if FREE in parts:
        stack.enter_context(mock.patch.object(pretraining, "spread_timesteps", drawn_freely))
    if USUAL in parts:
        stack.enter_context(mock.patch.object(pretraining, "ADAM_BETAS", (0.9, 0.999)))
    return stack


def frechet_distance(one: Tensor, other: Tensor) -> float:
    """Return the squared Frechet distance of two sets of rows (N, D) seen as normal."""
    means, covariances = (
        [rows.double().mean(0) for rows in (one, other)],
        [torch.cov(rows.double().T) for rows in (one, other)],
    )
    both = torch.linalg.eigvals(covariances[0] @ covariances[1]).real.clamp(min=0).sqrt().sum()
    apart = (means[0] - means[1]).square().sum()
    return float(apart + covariances[0].trace() + covariances[1].trace() - 2 * both)


def coverage_of(images: Tensor, labels: Tensor, reals: Tensor, real_labels: Tensor) -> float:
    """Return the mean distance from a real row to the nearest sample of its class."""
    distances = torch.cdist(reals, images)
    return float(distances.masked_fill(real_labels[:, None] != labels, torch.inf).amin(1).mean())


def cell(
    name: str, seed: int, dataset: Dataset, reals: Reals, judge: Any, folder: Path
) -> dict[str, float]:
    """Train a base by one recipe with one seed and measure its samples."""
    settings, back = VARIANTS[name]
    config = PretrainConfig(**settings, base_seed=seed)
    architecture = PixelDiTConfig.for_images(
        dataset.image_size, dataset.channels, reals.num_classes
    )
    schedule = alphas_cumprod(architecture.noise_schedule, architecture.num_timesteps)
    transformer = build_pixel_dit(architecture, seed)
    began = time.process_time()
    with taken_back(back):
        averaged = pretraining.pretrain(
            transformer, *dataset.split("train"), config, alphas_cumprod=schedule,
            checkpoint=Checkpoint(folder / f"{list(VARIANTS).index(name)}-{seed}.safetensors"),
            on_progress=ignore_progress,
        )  # fmt: skip
    seconds = time.process_time() - began
    transformer.load_state_dict(averaged)
    base = pixel_base(transformer.eval(), architecture, dataset.class_names, reference="")
    samples, labels = sample(base, seed, reals.num_classes)
    raw = ((samples + 1) * 127.5).round().to(torch.uint8)
    rows = rows_of(raw.numpy())
    train, validation = (dataset.split(split) for split in ("train", "validation"))
    return {
        "fidelity": accuracy(judge, reals.normalised(raw.numpy()), labels),
        "coverage": coverage_of(
            rows, labels, rows_of(validation[0]), torch.from_numpy(validation[1])
        ),
        "frechet": frechet_distance(rows, rows_of(np.concatenate([train[0], validation[0]]))),
        "seconds": seconds,
    }


def rows_of(raw: np.ndarray) -> Tensor:
    """Return raw images (N, C, H, W) as rows (N, D) in [-1, 1]."""
    return (torch.from_numpy(raw).float() / 127.5 - 1).flatten(1)


def main() -> None:
    """Fill every cell that is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-base-recipe"))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    config = DistillConfig(image_size=8, channels=1, num_threads=1, horizontal_flip=False)
    done = run_stage(prepare.STAGE, config, {}, root=arguments.folder, on_progress=ignore_progress)
    dataset = Dataset.load(done.folder)
    reals = reals_of(dataset)
    judge = fit_classifier(reals, *reals.split("train"), judge_recipe(config), seed=0)
    store = arguments.folder / "measured.json"
    measured: dict[str, Any] = read_json(store) if store.exists() else {}
    for seed in range(arguments.seeds):
        for name in VARIANTS:
            key = f"{name}/{seed}"
            if key not in measured:
                measured[key] = cell(name, seed, dataset, reals, judge, arguments.folder)
                write_json(store, measured)
                print(f"{key:40s} {measured[key]}", flush=True)
    rows = [
        {"name": name, "seeds": arguments.seeds}
        | {figure: statistic(measured, name, figure, arguments.seeds) for figure in FIGURES}
        for name in VARIANTS
    ]
    save("base_recipe.json", {"question": __doc__.splitlines()[0], "rows": rows})


def statistic(measured: dict[str, Any], name: str, figure: str, seeds: int) -> dict[str, float]:
    """Return mean and spread of a figure over the seeds."""
    values = [measured[f"{name}/{seed}"][figure] for seed in range(seeds)]
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1))}


if __name__ == "__main__":
    main()
