"""How good is the pipeline on MNIST with the students of the field (ConvNet-3, 300 epochs)?

Three runs (seeds of job and students; one base), three students each, on the 10,000 test images.

    python benchmarks/mnist.py --data ../shared/data/mnist [--folder DIR] [--ipc 1 10]

Writes benchmarks/results/mnist.json. About two hours on two CPU cores; resumable.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.jobs import pooled, print_table, run, save

BATCH_SIZE = 128
EPOCHS = 300


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
        reports = []
        for seed in range(arguments.runs):
            print(f"IPC {images_per_class}, seed {seed}", flush=True)
            # up to 128 images are one batch, so that epochs are steps
            epochs_as_steps = EPOCHS * -(-10 * images_per_class // BATCH_SIZE)
            request = {
                "images_per_class": images_per_class,
                "seed": seed,
                "num_threads": arguments.threads,
                "data": {"dataset": arguments.data},
                "evaluate": {
                    "num_seeds": 3,
                    "controls": True,
                    "student": {"num_steps": epochs_as_steps, "batch_size": BATCH_SIZE},
                },
            }
            folder = arguments.folder / f"ipc{images_per_class}-seed{seed}"
            reports.append(run(folder, request, arguments.folder / "cache"))
        table = {protocol: pooled(reports, protocol) for protocol in ("hard", "soft")}
        for protocol, rows in table.items():
            print_table(f"IPC {images_per_class}, {protocol} labels", rows)
        table["stage_effects"] = [report["stage_effects"] for report in reports]
        table["seconds"] = [report["seconds"] for report in reports]
        result["tables"][f"ipc{images_per_class}"] = table
    save("mnist.json", result)


if __name__ == "__main__":
    main()
