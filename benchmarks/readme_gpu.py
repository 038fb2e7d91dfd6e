"""What the result pages say of a GPU: speed with the published model, CIFAR-10 as published."""

from pathlib import Path
from typing import Any

from benchmarks.cifar_full import ARCHITECTURES
from benchmarks.cifar_rows import row_named
from distillery.files import read_json

FULL_TABLES = ("cifar_full.json", "cifar_full_short.json")
"""Of the published schedules, and of fewer iterations; the first that is there is shown."""


def gpu_host(results: Path) -> list[str]:
    """Return what a GPU host reaches with the published model, beside a plain loop."""
    if not (results / "gpu_host_cuda.json").exists():
        return []
    result = read_json(results / "gpu_host_cuda.json")
    tune = " and ".join(
        f"{row['ours']['steps_per_s']:.1f} steps a second at batch {row['batch_size']} "
        f"({row['speedup']:.1f} times a plain loop of the published kind, "
        f"{100 * row['ours']['share_of_matmul_rate']:.0f} % of the measured rate of matrix "
        f"products, {row['ours']['peak_memory_gib']:.0f} GiB)"
        for row in result["finetune"]
    )
    sample = " and ".join(
        f"{row['ours']['images_per_s']:.1f} images a second at {row['num_steps']} steps "
        f"({row['speedup']:.0f} times one image at a time)"
        for row in result["sampling"]
    )
    return [
        f"On {result['environment']['gpu']}, {result['model']}, fine-tunes at {tune}, and samples "
        f"with guidance at {sample} (`gpu_host_cuda.json`)."
    ]


def full_table(results: Path) -> list[str]:
    """Return the table of methods at their published settings; rows without a cell are left out."""
    path = next((results / name for name in FULL_TABLES if (results / name).exists()), None)
    if path is None:
        return []
    result = read_json(path)
    networks = [name for name in ARCHITECTURES if name in result["protocol"]["recipes"]]
    lines = [
        "**CIFAR-10, 10 images per class, all 50,000 training images, matching through a ConvNet-3 "
        "of width 128** (%, test split, one seed and one student of each network; a schedule may "
        "end before the published number of iterations)",
        "",
        "| hard labels | iterations, share of the published | seconds of distillation | "
        + " | ".join([networks[0], "worst cluster", *networks[1:]])
        + " | as published |",
        "|---" * (5 + len(networks)) + "|",
    ]
    for name, row in result["rows"].items():
        if row[networks[0]]:
            lines.append(_full_row(name, row, networks))
    command = result["environment"]["command"]
    return ["\n".join(lines), f"`{command}` (`{path.name}`).{note_of(result)}"]


def note_of(result: dict[str, Any]) -> str:
    """Return what a result file says of itself beside its numbers, behind a space, or nothing."""
    return f" {result['note']}" if "note" in result else ""


def _full_row(name: str, row: dict[str, Any], networks: list[str]) -> str:
    """Return a row of the full table; a student that was not trained leaves its cell empty."""
    first, *others = (row[network] for network in networks)
    cells = [
        row_named(name).label,
        f"{first['iterations']}, {100 * first['iterations'] / row['published']:.2g} %",
        f"{first['wall_seconds']:.0f} on {first['device']}",
        f"{first['accuracy']:.1f}",
        f"{first['cluster_min']:.1f}",
        *(f"{other['accuracy']:.1f}" if other else "" for other in others),
        "" if row["target"] is None else f"{row['target']}",
    ]
    return f"| {' | '.join(cells)} |"
