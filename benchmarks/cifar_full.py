"""Full table on CIFAR-10: published schedules, ConvNet-3 of width 128, four architectures.

    python -m benchmarks.cifar_full --data DIR [--folder DIR] [--minutes 30] [--device cuda]

All 5,000 training images of a class; students by the protocol dc-small. One cell (a row with a
seed) at a time, in order of weight; a cell that the minutes cut goes on from its checkpoint at the
next call. Cells that were not reached stay empty. Targets are the published accuracies at 10
images per class, each to be met within 3 points. Options that shorten the work make a result that
says so, and is kept in the folder.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.cifar import NUM_CLASSES, load_cifar
from benchmarks.cifar_quick import quick_bench
from benchmarks.cifar_rows import Bench, Row, row_named
from benchmarks.cifar_rows import Setting as RowSetting
from benchmarks.jobs import save
from distillery.checkpoint import Checkpoint
from distillery.errors import Cancelled
from distillery.evaluation.harness import ImageSet, TestBench
from distillery.evaluation.inputs import Inputs, Work
from distillery.evaluation.protocols import Case, find_protocol
from distillery.evaluation.setting import Overrides, Setting, describe, resolve
from distillery.evaluation.tables import student_trial
from distillery.files import read_json, write_json
from distillery.machine import keep_large_buffers, use_device
from distillery.progress import Progress, ignore_progress
from distillery.seeds import derive_seed
from distillery.tensorfile import read_tensors, write_tensors
from robust.matching_types import Method
from robust.methods import method_for

TARGETS = {"dm": 48.5, "dm+both": 55.1, "idm": 57.3, "idm+both": 59.9, "dsa": 52.1}
ROWS = ("dm", "dm+both", "idm", "idm+both", "dsa", "robust-dm", "robust-idm", "robust-dsa")
ARCHITECTURES = ("convnet-d3-w128", "alexnet", "vgg11", "resnet18")
COSTS = ("wall_seconds", "iterations", "device")
"""What a cell says of its distillation."""
IMAGES_PER_CLASS = 10
WITHIN = 3.0
"""Points by which a target may be missed."""


class Clock:
    """Ends the work when the minutes are over."""

    def __init__(self, minutes: float) -> None:
        self._ends = time.monotonic() + 60 * minutes

    def check(self, _: int = 0) -> None:
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
    parser.add_argument("--students", type=int, default=1, help="of each network; published: 20")
    parser.add_argument("--epochs", type=int, help="of each student; published: 1000")
    parser.add_argument("--iterations", type=int, help="of distillation, not the published number")
    parser.add_argument(
        "--judge-steps",
        type=int,
        default=30 * 50_000 // 128,
        help="training steps of the network that centralisation looks through",
    )
    parser.add_argument("--per-class", type=int, default=5000, help="training images of a class")
    parser.add_argument("--network", default="convnet-d3-w128", help="that is looked through")
    parser.add_argument(
        "--keep", action="store_true", help="write a shortened table to cifar_full_short.json"
    )
    parser.add_argument("--architectures", nargs="*", default=ARCHITECTURES, help="of students")
    return parser.parse_args(arguments)


def row_setting(options: argparse.Namespace) -> RowSetting:
    """Return the published setting: its own rates, batches and numbers of iterations."""
    return RowSetting(
        network=options.network, judge="resnet18", reals_per_class=None, seconds=None,
        tuned=False, judge_steps=options.judge_steps,
    )  # fmt: skip


def protocol(options: argparse.Namespace) -> Setting:
    """Return dc-small fitted to the sets of the table, all networks in one."""
    case = Case(
        images_per_class=IMAGES_PER_CLASS, num_classes=NUM_CLASSES, image_size=32, channels=3
    )
    overrides = Overrides(
        networks=tuple(options.architectures), num_epochs=options.epochs,
        num_repeats=options.students,
    )  # fmt: skip
    return resolve(find_protocol("dc-small"), case, overrides)


class FullBench(Bench):
    """The rows' bench, with another number of iterations where one is asked for."""

    iterations: int | None = None

    def method(self, row: Row) -> Method:
        """Return the method of a row with its published schedule, or the one asked for."""
        method = super().method(row)
        return (
            method if self.iterations is None else replace(method, num_iterations=self.iterations)
        )


@dataclass(frozen=True, slots=True)
class Table:
    """What every cell is made with."""

    bench: FullBench
    test: TestBench
    setting: Setting
    folder: Path
    clock: Clock


def cell_name(iterations: int | None, name: str, seed: int) -> str:
    """Return the name of a cell's files; a shortened schedule has its own."""
    return f"{name}-{seed}" + (f"-{iterations}" if iterations else "")


def distilled(table: Table, name: str, seed: int) -> dict[str, Any]:
    """Return a cell's decoded images with its costs; goes on where it was cut."""
    folder, cell = table.folder, cell_name(table.bench.iterations, name, seed)
    path, costs = folder / f"set-{cell}.safetensors", folder / f"set-{cell}.json"
    if not costs.exists():
        spent = folder / f"spent-{cell}.json"
        before, began = read_json(spent)["seconds"] if spent.exists() else 0.0, time.monotonic()
        checkpoint = Checkpoint(folder / f"state-{cell}.safetensors", interval_s=60.0)
        try:
            made = table.bench.make(
                row_named(name), derive_seed(0, "full-table", seed), checkpoint=checkpoint,
                on_progress=table.clock.on_progress,
            )  # fmt: skip
        finally:
            seconds = before + time.monotonic() - began
            write_json(spent, {"seconds": seconds})
        write_tensors(path, {"views": made.views, "labels": made.view_labels}, {})
        device = table.bench.device
        where = torch.cuda.get_device_name() if device.type == "cuda" else "a CPU"
        facts = {"wall_seconds": seconds, "iterations": made.iterations, "device": where}
        write_json(costs, facts)
        checkpoint.path.unlink(missing_ok=True)
    arrays, _ = read_tensors(path)
    return {**arrays, **read_json(costs)}


def run_cell(table: Table, name: str, seed: int) -> None:
    """Distil a cell, then judge it student by student; every figure is a file."""
    ready = distilled(table, name, seed)
    image_set = ImageSet(ready["views"], ready["labels"])
    nothing = np.zeros((0, 3, 32, 32), np.uint8), np.zeros(0, np.int64)
    inputs = Inputs(
        distilled=image_set, normalisation=table.test.normalisation, num_classes=NUM_CLASSES,
        test=nothing,
    )  # fmt: skip
    work = Work(
        setting=table.setting, inputs=inputs, store=table.folder / "unused.json", seed=seed,
        device=table.bench.device, on_progress=ignore_progress,
    )  # fmt: skip
    for architecture in table.setting.recipes:
        for number in range(table.setting.num_repeats):
            cell = cell_name(table.bench.iterations, name, seed)
            path = table.folder / "figures" / f"{cell}-{architecture}-{number}.json"
            if path.exists():
                continue
            trial = student_trial(work, table.test, image_set, architecture, number, name=name)
            figures = trial.run(table.clock.check)
            costs = {key: ready[key] for key in COSTS}
            facts = {"row": name, "seed": seed, "network": architecture}
            write_json(path, {**facts, **costs, **figures})
            print(f"{name} {seed} {architecture}: {100 * figures['accuracy']:.1f}", flush=True)


def summary(folder: Path, architectures: tuple[str, ...]) -> dict[str, Any]:
    """Return the mean accuracy of each row and architecture beside the targets."""
    figures = [read_json(path) for path in sorted((folder / "figures").glob("*.json"))]
    rows: dict[str, Any] = {}
    for name in ROWS:
        row: dict[str, Any] = {
            "target": TARGETS.get(name), "published": published_iterations(name),
        }  # fmt: skip
        for architecture in architectures:
            own = [f for f in figures if f["row"] == name and f["network"] == architecture]
            furthest = max((f["iterations"] for f in own), default=0)
            own = [f for f in own if f["iterations"] == furthest]
            row[architecture] = _means(own) if own else None
        reached = row[architectures[0]]
        if reached and row["target"]:
            row["within_3_points"] = abs(reached["accuracy"] - row["target"]) <= WITHIN
        rows[name] = row
        print(f"{name:12s}", {a: row[a] and round(row[a]["accuracy"], 1) for a in architectures})
    return rows


def published_iterations(name: str) -> int:
    """Return the steps of the images in a row's published schedule."""
    return method_for(row_named(name).base or "", IMAGES_PER_CLASS).num_iterations


def _means(own: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the means over seeds and students, in per cent, with each accuracy."""
    names = ("accuracy", "cluster_min", "noise", "blur", "invert")
    values = {name: [100 * f[name] for f in own if f[name] is not None] for name in names}
    means = {name: sum(v) / len(v) if v else None for name, v in values.items()}
    costs = {key: own[0][key] for key in COSTS}
    return {**means, "runs": values["accuracy"], **costs}


def work_until_cut(cells: list[tuple[str, int]], run: Callable[[str, int], None]) -> bool:
    """Run cells in order; return whether all are done, not cut by the clock."""
    try:
        for name, seed in cells:
            run(name, seed)
    except Cancelled:
        print("the minutes are over: call again to go on", flush=True)
        return False
    return True


def main(arguments: list[str] | None = None) -> None:
    """Work on cells until the minutes are over, then write the table of what is there."""
    options = parse(arguments)
    keep_large_buffers()
    use_device(options.device)
    (options.folder / "figures").mkdir(parents=True, exist_ok=True)
    clock = Clock(options.minutes)
    data = load_cifar(
        options.data, options.folder, per_class=options.per_class, has_validation=False
    )
    bench = FullBench(data, row_setting(options), cache=options.folder, device=options.device)
    bench.iterations, bench.on_step = options.iterations, clock.check
    test = quick_bench(bench, data.test, options.folder)
    setting = protocol(options)
    table = Table(bench, test, setting, options.folder, clock)
    cells = [(name, seed) for seed in range(options.seeds) for name in options.rows]
    is_complete = work_until_cut(cells, lambda name, seed: run_cell(table, name, seed))
    fixed = {key: value for key, value in asdict(bench.setting).items() if key != "seconds"}
    result = {
        "rows": summary(options.folder, tuple(options.architectures)),
        "is_complete": is_complete,
        "setting": fixed | {"per_class": options.per_class},
        "protocol": describe(setting),
    }
    shortened = options.iterations or options.epochs or options.per_class != 5000
    shortened = shortened or options.network != ARCHITECTURES[0]
    if shortened and not options.keep:
        write_json(options.folder / "table.json", result)
    else:
        save("cifar_full_short.json" if shortened else "cifar_full.json", result)


if __name__ == "__main__":
    main()
