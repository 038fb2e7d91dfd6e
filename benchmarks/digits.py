"""How good is the embedded default on scikit-learn's digits, and is every stage worth it?

Three runs of the whole pipeline with three base seeds (and job seeds), three students each, on the
600 test images that no other stage reads. Knobs were chosen on validation splits only.

    python benchmarks/digits.py [--folder DIR] [--ipc 1 10]

Writes benchmarks/results/digits.json. About 15 minutes on two CPU cores; resumable.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.jobs import one_row, pooled, print_table, run, save

TARGETS = {1: {"accuracy": 0.91}, 10: {"accuracy": 0.975, "cluster_min": 0.93}}


def main() -> None:
    """Run the jobs and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-digits"))
    parser.add_argument("--ipc", type=int, nargs="+", default=[10, 1])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    result: dict[str, Any] = {"question": __doc__.splitlines()[0], "tables": {}}
    for images_per_class in arguments.ipc:
        reports = []
        for seed in range(3):
            print(f"IPC {images_per_class}, seed {seed}", flush=True)
            request = {
                "images_per_class": images_per_class,
                "seed": seed,
                "num_threads": arguments.threads,
                "base": {"pretrain": {"base_seed": seed}},
                "evaluate": {
                    "num_seeds": 3,
                    "controls": True,
                    "full_data": True,
                },
            }
            folder = arguments.folder / f"ipc{images_per_class}-seed{seed}"
            reports.append(run(folder, request, arguments.folder / "cache"))
        table = {protocol: pooled(reports, protocol) for protocol in ("hard", "soft")}
        everything = [report["full_data"] for report in reports]
        table["hard"].append(one_row("full_data", everything[0]["label"], everything))
        for protocol, rows in table.items():
            print_table(f"IPC {images_per_class}, {protocol} labels", rows)
        ours = table["hard"][0]
        table["targets"] = {
            figure: {"target": target, "reached": ours[figure]["mean"]}
            for figure, target in TARGETS.get(images_per_class, {}).items()
        }
        table["starts"] = [report["start"]["word"] for report in reports]
        table["stage_effects"] = [report["stage_effects"] for report in reports]
        table["seconds"] = [report["seconds"] for report in reports]
        table["content_digests"] = [report["content_digest"] for report in reports]
        result["tables"][f"ipc{images_per_class}"] = table
    save("digits.json", result)


if __name__ == "__main__":
    main()
