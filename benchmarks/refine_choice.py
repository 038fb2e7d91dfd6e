"""Which refinement should a job do by default? Objectives, constraints and packing.

    python -m benchmarks.refine_choice [--folder DIR] [--minutes 30] [--seeds 2]
    python -m benchmarks.refine_choice --dataset ../shared/data/mnist --variants clusters dm

Of the digits, or of another dataset, whose result is a file of its own. The test split is not
looked at. The other images are cut into folds: each in turn judges (up to 200 images of a class),
and the rest is train and validation split of a job that refines the same random real images by
each variant in turn (after refinement a generated start is no better, docs/method.md).
Variants differ in the fields of `refine` alone. A cell (variant, fold, seed) is a file; a run that
was stopped goes on at the next cell. The choice is the variant whose accuracy on the held-out
folds is highest, if it is ahead of `clusters` by more than two standard errors of the paired
difference; else the quickest that is within 0.2 points of it in half the time; else `clusters`.
Writes benchmarks/results/refine_choice.json.
"""

import argparse
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.jobs import save
from distillery.data.dataset import Dataset
from distillery.data.normalise import measure_normalisation
from distillery.evaluation.harness import ImageSet, TestBench, build_bench, judge
from distillery.files import read_json, write_json
from distillery.machine import keep_large_buffers, probe
from distillery.progress import ignore_progress
from distillery.seeds import derive_seed, numpy_rng
from generator.config import DistillConfig
from generator.controls import random_real
from generator.plan import make_plan
from generator.refinement import SetScorer, pictures_of, refine_images, train_number
from generator.stage import run_stage
from generator.stages import prepare
from generator.stages.common import Reals
from robust.clusters import cluster_within_classes

NUM_FOLDS = 3
JUDGED_PER_CLASS = 200
"""At most so many images of a class judge; the digits' folds have 40."""
STUDENTS = 3
IMAGES_PER_CLASS = 10
FIGURES = ("accuracy", "cluster_min")
DEFAULT = "clusters"
AS_GOOD, QUICK = 0.002, 0.5
"""Accuracy that a quick variant may lack, and the share of the default's time that it may take."""
BOTH = {"centralisation_weight": 0.05, "covariance_weight": 0.01}
VARIANTS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "clusters, proxies of one age": {"youngest_proxy": 1.0},
    "clusters, twice the proxies": {"steps_per_proxy": 6},
    "clusters, plain proxies": {"robust": False},
    "class means alone": {"cluster_weight": 0.0},
    "clusters, three times the weight": {"cluster_weight": 3.0},
    "clusters, twice the steps": {"num_steps": 240},
    "clusters, twice the reals": {"reals_per_class": 128},
    "clusters, two attempts": {"num_attempts": 2},
    "clusters + covariance": {"covariance_weight": 0.01},
    "clusters + both": BOTH,
    "clusters, packed": {"parameterisation": "multi_formation"},
    "dm": {"objective": "dm", "robust": False},
    "dm, robust networks": {"objective": "dm"},
    "dm + both": {"objective": "dm", "robust": False, **BOTH},
    "idm": {"objective": "idm", "robust": False},
    "idm, packed": {
        "objective": "idm", "robust": False, "parameterisation": "multi_formation",
    },
    "idm, robust networks": {"objective": "idm"},
    "dsa": {"objective": "dsa", "robust": False},
    "dsa, robust networks": {"objective": "dsa"},
}  # fmt: skip
"""Fields of `refine` over the default's, by name; those that matter most come first."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/refine-choice"))
    parser.add_argument("--minutes", type=float, default=30.0, help="no cell begins after these")
    parser.add_argument("--dataset", help="not the digits but what a job may name")
    parser.add_argument("--folds", type=int, default=NUM_FOLDS, help="how many of the three judge")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--variants", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--steps", type=int, help="of refinement, not the default's number")
    return parser.parse_args(arguments)


def default_config(cache: Path, dataset: str | None = None) -> DistillConfig:
    """Return the default configuration of a job with a pixel base on one thread."""
    request: dict[str, Any] = {
        "images_per_class": IMAGES_PER_CLASS, "num_threads": 1, "device": "cpu",
        "base": {"reference": "pixel"},
    }  # fmt: skip
    if dataset is not None:
        request["data"] = {"dataset": dataset}
    return make_plan(request, cache=cache, machine=probe()).config


def variant_of(default: DistillConfig, name: str, steps: int | None, seed: int) -> DistillConfig:
    """Return the configuration of a variant."""
    # whatever the default of this size is: a variant is the same everywhere
    changes = {"objective": "clusters", "robust": True, **VARIANTS[name]}
    changes |= {"num_steps": steps} if steps else {}
    return replace(default, seed=seed, refine=replace(default.refine, **changes))


def fold_of(whole: Dataset, fold: int) -> Dataset:
    """Return the images that are not test images, with one fold as the split that judges.

    Of the others one sixth is the validation split, as in a job.
    """
    pool = np.sort(np.concatenate([whole.indices("train"), whole.indices("validation")]))
    parts: dict[str, list[np.ndarray]] = {"train": [], "validation": [], "test": []}
    for label in range(len(whole.class_names)):
        members = pool[whole.labels[pool] == label]
        members = numpy_rng(0, "refine-choice", label).permutation(members)
        held = members[fold::NUM_FOLDS][:JUDGED_PER_CLASS]
        rest = members[~np.isin(members, held)]
        cut = len(rest) // 6
        for name, own in (("test", held), ("validation", rest[:cut]), ("train", rest[cut:])):
            parts[name].append(own)
    splits = {name: np.sort(np.concatenate(own)) for name, own in parts.items()}
    return replace(whole, splits=splits)


class Fold:
    """A fold as a job sees it: the real images, their clusters, and the bench of its students."""

    def __init__(self, dataset: Dataset, config: DistillConfig) -> None:
        normalisation = measure_normalisation(dataset.split("train")[0])
        num_classes = len(dataset.class_names)
        self.reals = Reals(dataset, normalisation, num_classes)
        images, labels = self.reals.split("train")
        self.clusters = cluster_within_classes(
            images[:].flatten(1).numpy(), labels.numpy(), num_classes=num_classes,
            clusters_per_class=config.proxy.num_clusters, seed=derive_seed(0, "clusters"),
        )  # fmt: skip
        self.bench: TestBench = build_bench(
            *dataset.split("test"), normalisation=normalisation, num_classes=num_classes,
            num_groups=config.evaluate.num_groups, shifts=False,
        )  # fmt: skip

    def cell(self, config: DistillConfig) -> dict[str, Any]:
        """Refine random real images as the configuration says and judge what comes out."""
        began = time.process_time()
        pictures = config.images_per_class * config.refine.pictures_per_image
        start = random_real(self.reals, replace(config, images_per_class=pictures), 0)
        refined = refine_images(
            start.images, start.labels, self.reals, config,
            scorer=SetScorer(self.reals, config), seed=derive_seed(config.seed, "refine"),
            proxy_of=partial(train_number, self.reals, self.clusters, config),
            checkpoint=lambda _: None, on_progress=ignore_progress,
        )  # fmt: skip
        seconds = time.process_time() - began
        refine = config.refine
        image_set = ImageSet(
            pictures_of(refined.images, self.reals, refine.factor),
            np.repeat(refined.labels, refine.pictures_per_image),
        )
        runs = [
            judge(image_set, self.bench, config.evaluate.student, seed=derive_seed(config.seed, n))
            for n in range(STUDENTS)
        ]
        means = {
            name: float(np.mean([run[name] for run in runs if run[name] is not None] or [np.nan]))
            for name in FIGURES
        }
        return {**means, "kept": refined.kept, "set_scores": refined.scores, "seconds": seconds}


def summary(cells: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return mean and paired difference to the default of each variant, and the choice.

    Args:
        cells: Of each variant; a cell has `fold`, `seed` and figures.
    """
    rows: dict[str, Any] = {}
    base = {(c["fold"], c["seed"]): c for c in cells.get(DEFAULT, [])}
    for name, own in cells.items():
        pairs = [(c, base[c["fold"], c["seed"]]) for c in own if (c["fold"], c["seed"]) in base]
        row: dict[str, Any] = {"cells": len(own), "fields": VARIANTS[name]}
        row |= {figure: float(np.mean([c[figure] for c in own])) for figure in FIGURES}
        row["seconds"] = float(np.mean([c["seconds"] for c in own]))
        row["against_default"] = {
            figure: _difference([a[figure] - b[figure] for a, b in pairs]) for figure in FIGURES
        }
        rows[name] = row
    return {"rows": rows, "choice": _choice(rows)}


def _difference(values: list[float]) -> dict[str, float | None] | None:
    """Return mean and standard error of paired differences."""
    if not values:
        return None
    error = float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "standard_error": error}


def _choice(rows: Mapping[str, Any]) -> str | None:
    """Return the best variant if it is clearly ahead, else one as good in half the time, if any."""
    if DEFAULT not in rows:
        return None
    full = {name: row for name, row in rows.items() if row["cells"] == rows[DEFAULT]["cells"]}
    best = max(full, key=lambda name: full[name]["accuracy"])
    ahead = full[best]["against_default"]["accuracy"]
    clear = ahead["standard_error"] is not None and ahead["mean"] > 2 * ahead["standard_error"]
    if clear:
        return best
    most = full[DEFAULT]["seconds"] * QUICK
    quick = [
        name
        for name, row in full.items()
        if row["seconds"] <= most and row["against_default"]["accuracy"]["mean"] >= -AS_GOOD
    ]
    return min(quick, key=lambda name: full[name]["seconds"]) if quick else DEFAULT


def work(
    options: argparse.Namespace, default: DistillConfig, folds: list[Fold], ends: float
) -> tuple[dict[str, list[dict[str, Any]]], int]:
    """Return the cells of each variant and how many are missing; begins none after `ends`."""
    cells: dict[str, list[dict[str, Any]]] = {}
    missing = 0
    for seed, name, fold in product(range(options.seeds), options.variants, range(options.folds)):
        path = options.folder / "cells" / f"{list(VARIANTS).index(name)}-{fold}-{seed}.json"
        if not path.exists() and time.monotonic() < ends:
            figures = folds[fold].cell(variant_of(default, name, options.steps, seed))
            write_json(path, {"variant": name, "fold": fold, "seed": seed, **figures})
            print(f"{name}, fold {fold}, seed {seed}: {100 * figures['accuracy']:.1f}", flush=True)
        if path.exists():
            cells.setdefault(name, []).append(read_json(path))
        else:
            missing += 1
    return cells, missing


def main(arguments: list[str] | None = None) -> None:
    """Work on cells until the minutes are over, then write the table of what is there."""
    options = parse(arguments)
    keep_large_buffers()
    torch.set_num_threads(1)
    ends = time.monotonic() + 60 * options.minutes
    folder = options.folder
    (folder / "cells").mkdir(parents=True, exist_ok=True)
    default = default_config(folder / "cache", options.dataset)
    done = run_stage(prepare.STAGE, default, {}, root=folder / "cache", on_progress=ignore_progress)
    whole = Dataset.load(done.folder)
    folds = [Fold(fold_of(whole, number), default) for number in range(options.folds)]
    cells, missing = work(options, default, folds, ends)
    result = summary(cells) | {
        "judged_on": "held-out folds of the images that are not test images",
        "dataset": options.dataset or "digits", "start": "random real images",
        "images_per_class": IMAGES_PER_CLASS, "students": STUDENTS, "folds": options.folds,
        "seeds": options.seeds, "steps": options.steps, "missing_cells": missing,
    }  # fmt: skip
    for name, row in result["rows"].items():
        print(
            f"{name:26s} {100 * row['accuracy']:.1f} {100 * row['cluster_min']:.1f} {row['cells']}"
        )
    print(f"choice: {result['choice']}")
    if options.steps is None:
        name = f"_{Path(options.dataset).name}" if options.dataset else ""
        save(f"refine_choice{name}.json", result)
    else:
        write_json(folder / "table.json", result)


if __name__ == "__main__":
    main()
