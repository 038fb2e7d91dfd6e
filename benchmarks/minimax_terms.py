"""Do the minimax terms do what they claim, in each preset?

On the digits base: no fine-tuning, DiffFit alone, with representativeness, with diversity, with
both. Coverage is the mean distance from a real training image to the nearest generated one of its
class (lower is better covered), diversity the mean distance from a generated image to the nearest
other one of its class, both in pixels scaled to [-1, 1]; fidelity is the share of samples that a
judge of real images labels rightly. Three seeds of fine-tuning and sampling on one base.

    python -m benchmarks.minimax_terms [--folder DIR]

Writes benchmarks/results/minimax_terms.json. About 10 minutes on two CPU cores.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.jobs import run, save
from distillery.checkpoint import Checkpoint
from distillery.data.dataset import Dataset
from distillery.data.normalise import measure_normalisation
from distillery.evaluation.training import accuracy
from distillery.files import read_json, write_json
from distillery.models.base import DiffusionBase, load_base
from distillery.models.classifiers import build_classifier
from distillery.progress import ignore_progress
from distillery.tensorfile import read_tensors
from finetune.config import FinetuneConfig, with_preset
from finetune.difffit import merge_adapter
from finetune.latents import PixelLatents
from finetune.trainer import finetune
from generator.defaults import default_network
from generator.noise import initial_noise, noise_seed
from generator.sampler import sample_latents
from generator.stages.base import JUDGE

PER_CLASS = 50
GUIDANCE = 1.5
SEEDS = range(3)


def variants() -> dict[str, FinetuneConfig | None]:
    """Return the configurations to compare, by name."""
    plain = FinetuneConfig(guard_interval=0, representativeness_weight=0, diversity_weight=0)
    found: dict[str, FinetuneConfig | None] = {"no fine-tuning": None, "DiffFit only": plain}
    for preset in ("reference", "printed", "default"):
        both = with_preset(FinetuneConfig(guard_interval=0), preset, "pixel")
        found[f"{preset}: + representativeness"] = replace(both, diversity_weight=0)
        found[f"{preset}: + diversity"] = replace(both, representativeness_weight=0)
        found[f"{preset}: both"] = both
    # the published weights are for latents; the terms at ten times show their direction
    default = with_preset(FinetuneConfig(guard_interval=0), "default", "pixel")
    found["default, representativeness x 10 alone"] = replace(
        default, representativeness_weight=0.02, diversity_weight=0
    )
    return found


def sample(base: DiffusionBase, seed: int, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images in [-1, 1] and labels."""
    jobs = [(label, index) for label in range(num_classes) for index in range(PER_CLASS)]
    noise = initial_noise([noise_seed(seed, *job) for job in jobs], base.latent_shape)
    labels = torch.tensor([label for label, _ in jobs])
    parts = [
        sample_latents(
            base.transformer.eval(), noise[i : i + 100], labels[i : i + 100],
            alphas_cumprod=base.alphas_cumprod, null_row=base.null_row, guidance_scale=GUIDANCE,
        )
        for i in range(0, len(jobs), 100)
    ]  # fmt: skip
    return torch.cat(parts).clamp(-1, 1), labels


def measures(
    images: torch.Tensor, labels: torch.Tensor, reals: torch.Tensor, real_labels: torch.Tensor
) -> dict[str, float]:
    """Return coverage and diversity, averaged over classes."""
    coverage, diversity = [], []
    for label in labels.unique():
        own, real = images[labels == label].flatten(1), reals[real_labels == label].flatten(1)
        coverage.append(float(torch.cdist(real, own).amin(1).mean()))
        between = torch.cdist(own, own).fill_diagonal_(torch.inf)
        diversity.append(float(between.amin(1).mean()))
    return {"coverage": float(np.mean(coverage)), "diversity": float(np.mean(diversity))}


def main() -> None:
    """Train and measure every variant with every seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-minimax"))
    parser.add_argument("--cache", type=Path, default=Path("runs/benchmark-digits/cache"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    run(arguments.folder / "job", {"num_threads": 1, "evaluate": {"num_seeds": 1}}, arguments.cache)
    dataset, folder = _inputs(arguments.cache)
    normalisation = measure_normalisation(dataset.split("train")[0])
    judge = build_classifier(default_network(8), 1, 8, 10, 0)
    weights = read_tensors(folder / JUDGE)[0]
    judge.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    raw, real_labels = dataset.split("train")
    reals = torch.from_numpy(raw).float() / 127.5 - 1
    store = arguments.folder / "measured.json"
    measured: dict[str, Any] = read_json(store) if store.exists() else {}
    for name, config in variants().items():
        for seed in SEEDS:
            key = f"{name}/{seed}"
            if key in measured:
                continue
            base = load_base(folder / "base")
            if config is not None:
                state = Checkpoint(arguments.folder / f"{key.replace('/', '-')}.safetensors")
                result = finetune(
                    base.transformer, alphas_cumprod=base.alphas_cumprod, null_row=base.null_row,
                    latents=PixelLatents(raw), labels=real_labels, class_rows=range(10),
                    config=config, seed=seed, checkpoint=state, on_progress=ignore_progress,
                )  # fmt: skip
                merge_adapter(base.transformer, result.adapter)
            images, labels = sample(base, seed, 10)
            figures = measures(images, labels, reals, torch.from_numpy(real_labels))
            pixels = ((images + 1) * 127.5).round().to(torch.uint8)
            figures["fidelity"] = accuracy(judge.eval(), normalisation.normalise(pixels), labels)
            measured[key] = figures
            write_json(store, measured)
            print(f"{key:45s} {figures}", flush=True)
    rows = []
    for name in variants():
        runs = [measured[f"{name}/{seed}"] for seed in SEEDS]
        row: dict[str, Any] = {"name": name}
        for figure in ("coverage", "diversity", "fidelity"):
            values = [one[figure] for one in runs]
            row[figure] = {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1))}
        rows.append(row)
    save("minimax_terms.json", {"question": __doc__.splitlines()[0], "rows": rows})


def _inputs(cache: Path) -> tuple[Dataset, Path]:
    """Return the prepared digits and the folder of the base with seed 0."""
    for path in sorted(cache.glob("base-*/stage.json")):
        settings = read_json(path)["settings"]["base"]
        if settings["pretrain"]["base_seed"] == 0 and settings["pretrain"]["num_steps"] == 2400:
            (prepared,) = sorted(cache.glob("prepare-*/dataset.json"))[:1]
            return Dataset.load(prepared.parent), path.parent
    raise SystemExit("no base in the cache: run benchmarks.digits first")


if __name__ == "__main__":
    main()
