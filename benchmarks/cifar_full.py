"""Full table on CIFAR-10: published schedules, ConvNet-3 of width 128, four architectures.

    python -m benchmarks.cifar_full --data DIR [--folder DIR] [--minutes 30] [--device cuda]

One cell (a row with a seed) at a time, in order of weight; a cell that the minutes cut goes on from
its checkpoint at the next call. Cells that were not reached stay empty. Targets are the published
accuracies at 10 images per class, each to be met within 3 points. Of the 5,000
training images of a class 4,800 are used: 200 are our validation split.
"""

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.cifar import NUM_CLASSES, load_cifar
from benchmarks.cifar_quick import quick_bench, student
from benchmarks.cifar_rows import Bench, Made, Setting, row_named
from benchmarks.jobs import save
from distillery.checkpoint import Checkpoint
from distillery.errors import Cancelled
from distillery.evaluation.harness import ImageSet, judge
from distillery.files import read_json, write_json
from distillery.machine import keep_large_buffers
from distillery.progress import Progress
from distillery.seeds import derive_seed
from distillery.tensorfile import read_tensors, write_tensors

TARGETS = {"dm": 48.5, "dm+both": 55.1, "idm": 57.3, "idm+both": 59.9, "dsa": 52.1}
ROWS = ("dm", "dm+both", "idm", "idm+both", "dsa", "robust-dm", "robust-idm", "robust-dsa")
ARCHITECTURES = ("convnet-d3-w128", "alexnet", "vgg11", "resnet18")
WITHIN = 3.0
"""Points by which a target may be missed."""


class Clock:
    """Ends the work when the minutes are over."""

    def __init__(self, minutes: float) -> None:
        self._ends = time.monotonic() + 60 * minutes

    def check(self) -> None:
        """Raise Cancelled once the time is over."""
        if time.monotonic() > self._ends:
            raise Cancelled

    def on_progress(self, progress: Progress) -> None:
        """Be told of a step of distillation."""
        if progress.step % 500 == 0:
            print(f"  step {progress.step}/{progress.total} {progress.metrics}", flush=True)
        self.check()


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the parquet files")
    parser.add_argument("--folder", type=Path, default=Path("cifar_full"), help="for cells")
    parser.add_argument("--minutes", type=float, default=30.0, help="stop cleanly after these")
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=ROWS)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--epochs", type=int, default=1000, help="of each student")
    parser.add_argument("--students", type=int, default=1, help="of each architecture")
    return parser.parse_args(arguments)


def setting() -> Setting:
    """Return the published setting: its own rates, batches and numbers of iterations."""
    return Setting(
        network="convnet-d3-w128", judge="resnet18", reals_per_class=None, seconds=None,
        tuned=False, judge_steps=30 * 50_000 // 128,
    )  # fmt: skip


def distilled(bench: Bench, folder: Path, name: str, seed: int, clock: Clock) -> dict[str, Any]:
    """Return a cell's stored and decoded images with its costs; goes on where it was cut."""
    path = folder / f"set-{name}-{seed}.safetensors"
    costs = folder / f"set-{name}-{seed}.json"
    if not costs.exists():
        checkpoint = Checkpoint(folder / f"state-{name}-{seed}.safetensors", interval_s=60.0)
        made: Made = bench.make(
            row_named(name), derive_seed(0, "full-table", seed), checkpoint=checkpoint,
            on_progress=clock.on_progress,
        )  # fmt: skip
        write_tensors(path, {"views": made.views, "labels": made.view_labels}, {})
        write_json(costs, {"seconds": made.seconds, "iterations": made.iterations})
        checkpoint.path.unlink(missing_ok=True)
    arrays, _ = read_tensors(path)
    return {**arrays, **read_json(costs)}


def run_cell(
    bench: Bench, test: Any, options: argparse.Namespace, cell: tuple[str, int], clock: Clock
) -> None:
    """Distil a cell, then judge it student by student; every figure is a file."""
    name, seed = cell
    ready = distilled(bench, options.folder, name, seed, clock)
    for architecture in ARCHITECTURES:
        for number in range(options.students):
            path = options.folder / "figures" / f"{name}-{seed}-{architecture}-{number}.json"
            if path.exists():
                continue
            recipe = student(len(ready["views"]), architecture, options.epochs)
            figures = judge(
                ImageSet(ready["views"], ready["labels"]), test, recipe,
                seed=derive_seed(seed, "student", number), on_step=lambda _: clock.check(),
            )  # fmt: skip
            costs = {key: ready[key] for key in ("seconds", "iterations")}
            write_json(
                path, {"row": name, "seed": seed, "network": architecture, **costs, **figures}
            )
            print(f"{name} {seed} {architecture}: {100 * figures['accuracy']:.1f}", flush=True)


def table(folder: Path) -> dict[str, Any]:
    """Return the mean accuracy of each row and architecture beside the targets."""
    figures = [read_json(path) for path in sorted((folder / "figures").glob("*.json"))]
    rows: dict[str, Any] = {}
    for name in ROWS:
        row: dict[str, Any] = {"target": TARGETS.get(name)}
        for architecture in ARCHITECTURES:
            own = [f for f in figures if f["row"] == name and f["network"] == architecture]
            values = [100 * f["accuracy"] for f in own]
            row[architecture] = {"mean": sum(values) / len(values), "runs": values} if own else None
        reached = row[ARCHITECTURES[0]]
        if reached and row["target"]:
            row["within_3_points"] = abs(reached["mean"] - row["target"]) <= WITHIN
        rows[name] = row
        print(f"{name:12s}", {a: row[a] and round(row[a]["mean"], 1) for a in ARCHITECTURES})
    return rows


def main() -> None:
    """Work on cells until the minutes are over, then write the table of what is there."""
    options = parse()
    keep_large_buffers()
    (options.folder / "figures").mkdir(parents=True, exist_ok=True)
    clock = Clock(options.minutes)
    data = load_cifar(options.data, options.folder, per_class=5000)
    bench = Bench(data, setting(), cache=options.folder, device=options.device)
    test = quick_bench(bench, data.test, options.folder)
    try:
        for seed in range(options.seeds):
            for name in options.rows:
                run_cell(bench, test, options, (name, seed), clock)
    except Cancelled:
        print("the minutes are over: call again to go on", flush=True)
    fixed = {k: v for k, v in asdict(bench.setting).items() if k not in ("seconds",)}
    result = {"rows": table(options.folder), "setting": fixed | {"epochs": options.epochs}}
    save("cifar_full.json", result | {"num_classes": NUM_CLASSES})


if __name__ == "__main__":
    main()
