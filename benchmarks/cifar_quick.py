"""Quick table on CIFAR-10: every method, the same CPU seconds of distillation, one harness.

    python -m benchmarks.cifar_quick --data DIR [--folder DIR] [--minutes 60] [--workers 2]

Cells (a row with a seed) are processes of their own, so their peak memory is theirs; a finished
one is a file and never runs again. Rows that matter most come first; what the time does not reach
stays empty. Students see what is stored: eight bits a pixel.
"""

import argparse
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.cifar import NUM_CLASSES, Split, load_cifar
from benchmarks.cifar_rows import ROWS, TRIED, Bench, Setting, row_named
from benchmarks.cifar_table import summary
from benchmarks.jobs import save
from distillery.data.corruptions import standard_corruptions
from distillery.data.normalise import NormalisedImages
from distillery.evaluation.config import StudentConfig
from distillery.evaluation.groups import test_groups
from distillery.evaluation.harness import ImageSet, TestBench, judge
from distillery.files import digest_json, read_json, write_json
from distillery.machine import keep_large_buffers
from distillery.seeds import derive_seed
from distillery.tensorfile import read_tensors, write_tensors

NUM_GROUPS = 10
FIRST_GUESS_S = 240.0
"""Seconds that a cell is thought to take before one has been measured."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the parquet files")
    parser.add_argument("--folder", type=Path, default=Path("cifar_quick"), help="for cells")
    parser.add_argument("--minutes", type=float, default=60.0, help="stop cleanly after these")
    parser.add_argument("--workers", type=int, default=2, help="cells at a time, one core each")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", nargs="*", choices=[row.name for row in ROWS])
    parser.add_argument("--seconds", type=float, default=60.0, help="CPU seconds of distillation")
    parser.add_argument("--epochs", type=int, default=300, help="of each student")
    parser.add_argument("--per-class", type=int, default=1000, help="training images of a class")
    parser.add_argument("--validation", action="store_true", help="judge on our validation split")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def student(num_images: int, network: str, epochs: int) -> StudentConfig:
    """Return the recipe of the judge for a set: the same number of epochs for every set."""
    batch_size = 256
    return StudentConfig(
        network=network,
        num_steps=epochs * -(-num_images // batch_size),
        batch_size=batch_size,
        learning_rate=1e-3,
        augmentation="dsa",
    )


def run_cell(options: argparse.Namespace, name: str, seed: int) -> dict:
    """Distil one row with one seed, judge it, and return its figures."""
    keep_large_buffers()
    torch.set_num_threads(1)
    data = load_cifar(options.data, options.folder, per_class=options.per_class)
    bench = Bench(data, Setting(seconds=options.seconds), cache=options.folder)
    row = row_named(name)
    made = bench.make(row, derive_seed(0, "quick-table", seed))
    peak_kib = own_peak_kib()
    judged = data.validation if options.validation else data.test
    test = quick_bench(bench, judged, options.folder)
    recipe = student(len(made.views), bench.setting.network, options.epochs)
    began = time.thread_time()
    figures = judge(ImageSet(made.views, made.view_labels), test, recipe, seed=seed)
    return {
        "row": name,
        "seed": seed,
        **{key: figures[key] for key in ("accuracy", "cluster_min", "noise", "blur", "invert")},
        "seconds": made.seconds,
        "iterations": made.iterations,
        "published_iterations": made.published_iterations,
        "peak_mib": peak_kib / 1024,
        "student_seconds": time.thread_time() - began,
    }


def own_peak_kib() -> int:
    """Return the peak of this program's own memory; `ru_maxrss` begins at that of its parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def quick_bench(bench: Bench, judged: Split, cache: Path) -> TestBench:
    """Return the judge's bench; blurred images and groups are worked out once, then read."""
    path = cache / f"bench-{len(judged.labels)}.safetensors"
    if not path.exists():
        shifted = standard_corruptions(judged.images)
        groups = test_groups(judged.images, num_groups=NUM_GROUPS)
        write_tensors(path, {"clean": judged.images, "groups": groups, **shifted}, {})
    arrays, _ = read_tensors(path)
    groups = arrays.pop("groups")
    views = {
        name: NormalisedImages(torch.from_numpy(raw).to(bench.device), bench.normalisation)
        for name, raw in arrays.items()
    }
    return TestBench(judged.labels, groups, NUM_GROUPS, NUM_CLASSES, bench.normalisation, views)


def is_published_setting(options: argparse.Namespace) -> bool:
    """Say whether the options are those of the committed table."""
    is_whole = (options.seconds, options.epochs, options.per_class) == (60, 300, 1000)
    return is_whole and not options.validation


def cell_folder(options: argparse.Namespace) -> str:
    """Return where finished cells lie: others for other settings, so that none are mixed."""
    if is_published_setting(options):
        return "cells"
    setting = [options.seconds, options.epochs, options.per_class, options.validation]
    return f"cells-{digest_json(setting)[:8]}"


class Schedule:
    """Which cells are left, and whether the next one still fits the time."""

    def __init__(self, options: argparse.Namespace) -> None:
        names = options.rows or [row.name for row in ROWS]
        self.options = options
        self.cells = [(name, seed) for seed in range(options.seeds) for name in names]
        self.ends = time.monotonic() + 60 * options.minutes
        self.cell_folder = options.folder / cell_folder(options)
        self.cell_folder.mkdir(parents=True, exist_ok=True)

    def path(self, cell: tuple[str, int]) -> Path:
        """Return the file of a cell."""
        return self.cell_folder / f"{cell[0]}-{cell[1]}.json"

    def finished(self) -> list[dict]:
        """Return the figures of all finished cells."""
        return [read_json(self.path(cell)) for cell in self.cells if self.path(cell).exists()]

    def guess(self, name: str) -> float:
        """Return the seconds that a cell of a row should take."""
        known = self.finished()
        own = [cell["wall_seconds"] for cell in known if cell["row"] == name]
        return max(own or [cell["wall_seconds"] for cell in known] or [FIRST_GUESS_S])

    def next(self, started: set[tuple[str, int]]) -> tuple[str, int] | None:
        """Return the next cell that fits what is left of the time."""
        left = self.ends - time.monotonic()
        for cell in self.cells:
            if cell not in started and not self.path(cell).exists() and self.guess(cell[0]) < left:
                return cell
        return None


def work(schedule: Schedule, workers: int) -> None:
    """Run cells until none is left or the time is over; then end what still runs."""
    running: dict[tuple[str, int], subprocess.Popen] = {}
    started: set[tuple[str, int]] = set()
    try:
        while True:
            for cell, process in list(running.items()):
                if process.poll() is not None:
                    print(f"{cell[0]} {cell[1]}: exit {process.returncode}", flush=True)
                    del running[cell]
            while len(running) < workers and (cell := schedule.next(started)) is not None:
                started.add(cell)
                command = [sys.executable, "-m", "benchmarks.cifar_quick", *sys.argv[1:]]
                running[cell] = subprocess.Popen([*command, "--cell", f"{cell[0]}:{cell[1]}"])
            if not running or time.monotonic() > schedule.ends:
                return
            time.sleep(0.5)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()


def main() -> None:
    """Run one cell (inside), or all that the time allows, and write the table."""
    options = parse()
    schedule = Schedule(options)
    if options.cell:
        name, seed = options.cell.rsplit(":", 1)
        began = time.monotonic()
        figures = run_cell(options, name, int(seed))
        figures["wall_seconds"] = time.monotonic() - began
        write_json(schedule.path((name, int(seed))), figures)
        return
    data = load_cifar(options.data, options.folder, per_class=options.per_class)
    bench = Bench(data, Setting(), cache=options.folder)  # once, for all cells
    bench.judge()
    quick_bench(bench, data.validation if options.validation else data.test, options.folder)
    work(schedule, options.workers)
    setting = asdict(Setting(seconds=options.seconds)) | {
        "epochs": options.epochs, "per_class": options.per_class, "seeds": options.seeds,
        "tried_on_validation": list(TRIED),
        "judged_on": "validation" if options.validation else "test",
    }  # fmt: skip
    result = summary(schedule.finished(), setting)
    if is_published_setting(options):
        save("cifar_quick.json", result)
    else:
        write_json(options.folder / "table.json", result)


if __name__ == "__main__":
    main()
