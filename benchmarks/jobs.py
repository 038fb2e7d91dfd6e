"""Runs of the whole pipeline for benchmarks, and one table out of several of them.

Jobs lie in a folder that can be left and taken up again; results are JSON with command, hardware
and versions. Mean and spread are over all students of all runs: base seeds x student seeds.
"""

import platform
import shlex
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from distillery.files import read_json, write_json
from distillery.machine import keep_large_buffers, probe
from distillery.progress import Progress
from generator.controls import LABELS
from generator.pipeline import run_job, start_job, stored_job
from generator.plan import make_plan

RESULTS = Path(__file__).parent / "results"
FIGURES = ("accuracy", "cluster_min", "noise", "blur", "invert")


def environment() -> dict[str, Any]:
    """Return hardware, versions and the command, for a result file."""
    keep_large_buffers()
    machine, module = probe(), f"benchmarks.{Path(sys.argv[0]).stem}"
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []:
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return {
        "command": shlex.join(["python", "-m", module, *sys.argv[1:]]),
        "cpu": model,
        "cores": machine.num_cores,
        "gpu": machine.gpu,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "diffusers", "scikit-learn")},
    }


def run(folder: Path, request: Mapping[str, Any], cache: Path) -> dict[str, Any]:
    """Run or finish one job and return its report, with the seconds that each stage took."""
    job = stored_job(folder, request)
    if job is None:
        plan = make_plan(request, cache=cache, machine=probe())
        job = start_job(folder, request, plan)
    started = time.monotonic()
    last = [0.0]

    def tell(progress: Progress) -> None:
        if time.monotonic() - last[0] > 20:
            last[0] = time.monotonic()
            seconds = last[0] - started
            print(
                f"  {seconds:6.0f} s  {progress.phase} {progress.step}/{progress.total}", flush=True
            )

    result = run_job(
        folder, job, cache=cache, on_progress=tell,
        on_stage=lambda s: print(f"  {s.name}: {s.record['summary']}", flush=True),
    )  # fmt: skip
    report = read_json(result.bundle / "report.json")
    return report | {
        "seconds": {stage.name: stage.record["seconds"] for stage in result.stages},
        "content_digest": result.content_digest,
    }


def pooled(reports: list[dict[str, Any]], protocol: str) -> list[dict[str, Any]]:
    """Return one row a set: mean, sample standard deviation and standard error over all students.

    The standard error is that of the run means, since students of one run share their images; with
    a single run it is that of its students.
    """
    rows = []
    found: dict[str, set[str]] = {}
    for report in reports:
        for own_row in report["results"][protocol]:
            found.setdefault(own_row["name"], set()).add(own_row["label"])
    for name, labels in found.items():
        # where a refinement was kept in some runs only, the row is of the refined set as a rule
        label = labels.pop() if len(labels) == 1 else LABELS[name]
        rows.append(one_row(name, label, [_row_of(report, protocol, name) for report in reports]))
    return rows


def one_row(name: str, label: str, own: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the row of one set out of its row in each run."""
    row: dict[str, Any] = {"name": name, "label": label}
    for figure in FIGURES:
        if any(run.get(figure) is None for run in own):
            row[figure] = None
            continue
        values = [value for run in own for value in run[figure]["runs"]]
        means = [run[figure]["mean"] for run in own]
        row[figure] = {
            "mean": float(np.mean(values)),
            "std": float(np.std(values, ddof=1)),
            "standard_error": _standard_error(means if len(means) > 1 else values),
            "runs": values,
        }
    return row


def _row_of(report: dict[str, Any], protocol: str, name: str) -> dict[str, Any]:
    """Return a row of a report; the refined set of the start that was kept is ours."""
    rows = {row["name"]: row for row in report["results"][protocol]}
    is_ours = name == f"{report['start']['kept']}_refined"
    return rows["ours" if is_ours and name not in rows else name]


def _standard_error(values: list[float]) -> float:
    """Return the standard error of a mean."""
    return float(np.std(values, ddof=1) / len(values) ** 0.5)


def print_table(title: str, rows: list[dict[str, Any]]) -> None:
    """Print a table in per cent."""
    print(f"\n{title}\n{'':42s}" + "".join(f"{figure:>16s}" for figure in FIGURES))
    for row in rows:
        cells = [
            f"{100 * row[f]['mean']:.1f} +- {100 * row[f]['std']:.1f}" if row[f] else "-"
            for f in FIGURES
        ]
        print(f"{row['label']:42s}" + "".join(f"{cell:>16s}" for cell in cells))


def save(name: str, result: dict[str, Any]) -> None:
    """Write a result file with the environment beside the figures."""
    RESULTS.mkdir(exist_ok=True)
    write_json(RESULTS / name, result | {"environment": environment()})
    print(f"\nwritten: benchmarks/results/{name}")
