"""Do the minimax terms do what they claim, in each preset, and do students gain by it?

On a base trained here: no fine-tuning, DiffFit alone, with representativeness, with diversity, with
both. Coverage is the mean distance from a real training image to the nearest generated one of its
class (lower is better covered), diversity the mean distance from a generated image to the nearest
other one of its class, both in pixels scaled to [-1, 1]; fidelity is the share of samples that a
judge of real images labels rightly; accuracy is that of three students of the first ten samples of
each class on the validation split. Seeds of fine-tuning and sampling share one base. The test split
is not read.

    python -m benchmarks.minimax_terms [--folder DIR]
    python -m benchmarks.minimax_terms --dataset ../shared/data/mnist --seeds 2 [--variants ...]

Writes benchmarks/results/minimax_terms.json, of another dataset minimax_terms_NAME.json. About 15
minutes on one CPU core for the digits; resumable.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.jobs import save
from benchmarks.refine_choice import IMAGES_PER_CLASS, STUDENTS, default_config
from distillery.checkpoint import Checkpoint
from distillery.data.dataset import Dataset
from distillery.evaluation.training import accuracy
from distillery.files import read_json, write_json
from distillery.models.base import DiffusionBase, load_base
from distillery.models.classifiers import Classifier
from distillery.progress import ignore_progress
from distillery.seeds import derive_seed
from finetune.config import FinetuneConfig, with_preset
from finetune.difffit import merge_adapter
from finetune.latents import PixelLatents
from finetune.trainer import finetune
from generator.noise import initial_noise, noise_seed
from generator.sampler import sample_latents
from generator.stage import run_stage
from generator.stages import prepare
from generator.stages.base import JUDGE
from generator.stages.base import STAGE as BASE
from generator.stages.common import fit_classifier, reals_of

PER_CLASS = 50
GUIDANCE = 1.5
FIGURES = ("coverage", "diversity", "fidelity", "accuracy")
UNGUARDED = FinetuneConfig(guard_interval=0)


def variants() -> dict[str, FinetuneConfig | None]:
    """Return the configurations to compare, by name."""
    found: dict[str, FinetuneConfig | None] = {
        "no fine-tuning": None,
        "DiffFit only": replace(UNGUARDED, representativeness_weight=0, diversity_weight=0),
    }
    for preset in ("reference", "printed", "default"):
        both = with_preset(UNGUARDED, preset, "pixel")
        found[f"{preset}: + representativeness"] = replace(both, diversity_weight=0)
        found[f"{preset}: + diversity"] = replace(both, representativeness_weight=0)
        found[f"{preset}: both"] = both
    # the published weights are for latents; the terms at ten times show their direction
    default = with_preset(UNGUARDED, "default", "pixel")
    found["default, representativeness x 10 alone"] = replace(
        default, representativeness_weight=0.02, diversity_weight=0
    )
    for weight in (0.008, 0.024):
        found[f"default, diversity {weight}"] = replace(default, diversity_weight=weight)
    found["default, batch 32"] = replace(default, batch_size=32)
    found["default, 100 steps"] = replace(default, num_steps=100)
    return found


def sample(base: DiffusionBase, seed: int, num_classes: int) -> tuple[Tensor, Tensor]:
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
    images: Tensor, labels: Tensor, reals: Tensor, real_labels: Tensor
) -> dict[str, float]:
    """Return coverage and diversity, averaged over classes."""
    coverage, diversity = [], []
    for label in labels.unique():
        own, real = images[labels == label].flatten(1), reals[real_labels == label].flatten(1)
        coverage.append(float(torch.cdist(real, own).amin(1).mean()))
        between = torch.cdist(own, own).fill_diagonal_(torch.inf)
        diversity.append(float(between.amin(1).mean()))
    return {"coverage": float(np.mean(coverage)), "diversity": float(np.mean(diversity))}


class Bench:
    """The data, the base and the judge of all cells."""

    def __init__(self, folder: Path, dataset: str | None) -> None:
        """Prepare the data and train the base, unless they are there."""
        cache = folder / "cache"
        self.folder, self.config = folder, default_config(cache, dataset)
        how: dict[str, Any] = {"root": cache, "on_progress": ignore_progress}
        prepared = run_stage(prepare.STAGE, self.config, {}, **how)
        self.base_folder = run_stage(BASE, self.config, {"prepare": prepared}, **how).folder
        self.reals = reals_of(Dataset.load(prepared.folder))
        self.judge = self.reals.load_classifier(self.base_folder / JUDGE, self.config.proxy.network)

    def cell(self, name: str, seed: int) -> dict[str, float]:
        """Fine-tune the base by one variant with one seed and measure its samples."""
        config = variants()[name]
        base = load_base(self.base_folder / "base")
        raw, real_labels = self.reals.dataset.split("train")
        if config is not None:
            state = self.folder / f"{name}-{seed}.safetensors"
            result = finetune(
                base.transformer, alphas_cumprod=base.alphas_cumprod, null_row=base.null_row,
                latents=PixelLatents(raw, flip=bool(self.config.horizontal_flip)),
                labels=real_labels, class_rows=range(self.reals.num_classes), config=config,
                seed=seed, checkpoint=Checkpoint(state), on_progress=ignore_progress,
            )  # fmt: skip
            merge_adapter(base.transformer, result.adapter)
        images, labels = sample(base, seed, self.reals.num_classes)
        scaled = torch.from_numpy(raw).float() / 127.5 - 1
        figures = measures(images, labels, scaled, torch.from_numpy(real_labels))
        drawn = ((images + 1) * 127.5).round().to(torch.uint8).numpy()
        figures["fidelity"] = accuracy(self.judge, self.reals.normalised(drawn), labels)
        first = np.arange(len(drawn)) % PER_CLASS < IMAGES_PER_CLASS
        scores = [
            accuracy(student, *self.reals.split("validation"))
            for student in self._students(drawn[first], labels[first], seed)
        ]
        return figures | {"accuracy": float(np.mean(scores))}

    def _students(self, raw: np.ndarray, labels: Tensor, seed: int) -> Iterator[Classifier]:
        """Yield students of raw images (N, C, H, W)."""
        images = self.reals.normalised(raw)
        for number in range(STUDENTS):
            yield fit_classifier(
                self.reals, images, labels, self.config.evaluate.student,
                seed=derive_seed(seed, "minimax-terms", number),
            )  # fmt: skip


def main() -> None:
    """Train and measure every variant with every seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-minimax"))
    parser.add_argument("--dataset", help="not the digits but what a job may name")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variants", nargs="*", choices=variants(), default=list(variants()))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(arguments.folder, arguments.dataset)
    store = arguments.folder / "measured.json"
    measured: dict[str, Any] = read_json(store) if store.exists() else {}
    for seed in range(arguments.seeds):
        for name in arguments.variants:
            key = f"{name}/{seed}"
            if key not in measured:
                measured[key] = bench.cell(name, seed)
                write_json(store, measured)
                print(f"{key:45s} {measured[key]}", flush=True)
    rows = []
    for name in arguments.variants:
        runs = [measured[f"{name}/{seed}"] for seed in range(arguments.seeds)]
        row: dict[str, Any] = {"name": name, "seeds": len(runs)}
        for figure in FIGURES:
            values = [one[figure] for one in runs]
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
            row[figure] = {"mean": float(np.mean(values)), "std": spread}
        rows.append(row)
    suffix = f"_{Path(arguments.dataset).name}" if arguments.dataset else ""
    save(f"minimax_terms{suffix}.json", {"question": __doc__.splitlines()[0], "rows": rows})


if __name__ == "__main__":
    main()
