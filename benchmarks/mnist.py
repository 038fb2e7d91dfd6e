"""How good is the pipeline on MNIST with the students of the field (ConvNet-3, 300 epochs)?

Runs with three students each, on the 10,000 test images. At 1 image per class a second job packs
four pictures into each stored image; controls are judged once, in the first job.

    python -m benchmarks.mnist --data ../shared/data/mnist [--folder DIR] [--ipc 1 10]

Writes benchmarks/results/mnist.json after each number of images per class. About 40 minutes on two
idle CPU cores; resumable.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.jobs import pooled, print_table, run, save

BATCH_SIZE = 128
EPOCHS = 300
PACKED = (1,)
"""Images per class at which a packed set is made too."""


def main() -> None:
    """Run the jobs and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-mnist"))
    parser.add_argument("--ipc", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=1)
    arguments = parser.parse_args()
    result: dict[str, Any] = {"question": __doc__.splitlines()[0], "tables": {}}
    for images_per_class in arguments.ipc:
        reports = [job(arguments, images_per_class, seed) for seed in range(arguments.runs)]
        packed = []
        if images_per_class in PACKED:
            packed = [
                job(arguments, images_per_class, seed, packed=True)
                for seed in range(arguments.runs)
            ]
        table: dict[str, Any] = {}
        for protocol in ("hard", "soft"):
            rows = pooled(reports, protocol)
            if packed and protocol in packed[0]["results"]:
                ours = [row for row in pooled(packed, protocol) if row["name"] == "ours"]
                names = {"name": "ours_packed", "label": "Distillery, four pictures in each image"}
                rows[1:1] = [row | names for row in ours]
            table[protocol] = rows
            print_table(f"IPC {images_per_class}, {protocol} labels", rows)
        table["starts"] = [report["start"]["word"] for report in reports]
        table["stage_effects"] = [report["stage_effects"] for report in reports]
        table["seconds"] = [report["seconds"] for report in [*reports, *packed]]
        result["tables"][f"ipc{images_per_class}"] = table
        save("mnist.json", result)


def job(
    options: argparse.Namespace, images_per_class: int, seed: int, *, packed: bool = False
) -> dict[str, Any]:
    """Run or finish a job and return its report."""
    name = f"ipc{images_per_class}-seed{seed}" + ("-packed" if packed else "")
    print(name, flush=True)
    # up to 128 images are one batch, so that epochs are steps
    pictures = images_per_class * (4 if packed else 1)
    epochs_as_steps = EPOCHS * -(-10 * pictures // BATCH_SIZE)
    request = {
        "images_per_class": images_per_class,
        "seed": seed,
        "num_threads": options.threads,
        "data": {"dataset": options.data},
        "evaluate": {
            "num_seeds": 3,
            "controls": not packed,
            "student": {"num_steps": epochs_as_steps, "batch_size": BATCH_SIZE},
        },
    }
    if packed:
        request["refine"] = {"parameterisation": "multi_formation"}
    return run(options.folder / name, request, options.folder / "cache")


if __name__ == "__main__":
    main()
