"""Does the group-robust objective of the proxies earn its place in refinement?

Two sides differ in the proxies' training objective alone: plain cross-entropy, or the group-robust
one. Matching, budget, start, real batches, augmentation, the proxies' first weights and batches and
the students' seeds are the same, seed by seed. `search` looks at the validation split only: first
at the cluster-min of the proxies themselves, of which the best settings go on, then at that of
students of refined sets, a few seeds at a time, where the better half goes on each time. `test`
runs the winner and its plain side on five fresh seeds of the test split, once.

    python -m benchmarks.robust_objective search --dataset mnist --ipc 1 [--minutes 30]
    python -m benchmarks.robust_objective test --dataset mnist --ipc 1

Both can be left and taken up again; every run stands in FOLDER/DATASET-ipcN.json. `test` writes
benchmarks/results/robust_objective.json. Hours on one CPU core.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student_t

from benchmarks.jobs import RESULTS, save
from benchmarks.robust_study import PLAIN, Data, Regime, Setting, load_data, proxy_once, run_once
from distillery.evaluation.config import StudentConfig
from distillery.files import read_json, write_json
from distillery.machine import keep_large_buffers
from robust.config import RefineConfig
from robust.moving_clusters import clusters_per_class
from robust.objective import GroupRobust

RESULT = "robust_objective.json"
FIGURES = ("cluster_min", "accuracy")
PROXY_SEEDS, GO_ON = (0, 1, 2), 6
"""Seeds of the look at proxies, and how many settings go on from it; the present default always."""
ROUNDS = ((0, 1), (2, 3, 4), (5, 6, 7, 8, 9))
"""Validation seeds of each round of refined sets; half of the settings go on to the next."""
MORE_STEPS_SEEDS = 5
TEST_SEEDS = tuple(range(1000, 1005))
LOST_ACCURACY = 0.002
"""Mean loss of validation accuracy beyond which a setting cannot win."""


def regime_of(dataset: str, images_per_class: int) -> Regime:
    """Return what both sides share; as long as one core can bear hundreds of runs."""
    few = images_per_class < 5
    rates: dict[str, Any] = {
        "learning_rate": 0.3 if few else 0.1,
        "reals_per_class": 16 if few else 32,
    }
    shared: dict[str, Any] = {"dataset": dataset, "images_per_class": images_per_class}
    if dataset == "digits":
        network = "convnet-d2-w32-group-max"
        return Regime(
            **shared, size=8, channels=1, train_per_class=10_000, validation_fraction=0.2,
            network=network, proxy=StudentConfig(num_steps=60, batch_size=128, learning_rate=3e-3),
            refine=RefineConfig(num_steps=120, steps_per_proxy=12, **rates),
            student=StudentConfig(network=network, num_steps=300), num_folds=3,
            test_sets=8,
        )  # fmt: skip
    if dataset == "mnist":
        network = "convnet-d3-w32"
        return Regime(
            **shared, size=28, channels=1, train_per_class=1000, validation_fraction=1 / 6,
            network=network, proxy=StudentConfig(num_steps=40, learning_rate=3e-3),
            refine=RefineConfig(num_steps=90, steps_per_proxy=15, **rates),
            student=StudentConfig(network=network, num_steps=200), test_sets=4 if few else 2,
        )  # fmt: skip
    network = "convnet-d3-w32"
    return Regime(
        **shared, size=32, channels=3, train_per_class=1000, validation_fraction=1 / 5,
        network=network,
        proxy=StudentConfig(
            num_steps=40, batch_size=256, learning_rate=3e-3, augmentation="dsa"
        ),
        refine=RefineConfig(num_steps=60, steps_per_proxy=10, **rates),
        student=StudentConfig(network=network, num_steps=200, augmentation="dsa"), num_students=2,
        test_sets=4,
    )  # fmt: skip


def settings_of(images_per_class: int) -> list[Setting]:
    """Return all settings that the search tries."""
    moving = clusters_per_class(images_per_class)

    def one(name: str, groups: Any, num_clusters: int, **robust: Any) -> Setting:
        own = GroupRobust(**robust)
        return Setting(name=name, groups=groups, num_clusters=num_clusters, robust=own)

    running = {"memory": 0.9, "min_cluster_size": 1}  # the worst cluster so far, not of the batch
    worst = {"tail_fraction": 1.0, "mean_weight": 0.0}  # group DRO: no tail inside a cluster
    settings = [
        one("class 5, tail .8 (default)", "class", 5),
        one("class 5, tail .3", "class", 5, tail_fraction=0.3),
        one("class 5, tail .8, every 3", "class", 5, every=3),
        one("class 5, max over all", "class", 5, max_over="all"),
        one("class 5, lower tail", "class", 5, tail="lower"),
        one("class 2, tail .8", "class", 2),
        one("class 10, tail .8", "class", 10),
        one("class 10, tail .5", "class", 10, tail_fraction=0.5),
        one("class 10, tail .8, mean only", "class", 10, max_weight=0),
        one("class 1, tail .5", "class", 1, tail_fraction=0.5, max_weight=0),
        one("class 1, tail .3", "class", 1, tail_fraction=0.3, max_weight=0),
        one("class 5, running worst", "class", 5, **running),
        one("class 5, running worst only", "class", 5, **running, **worst),
        one("moving, tail .8 (published)", "moving", moving),
        one("moving, running worst", "moving", moving, **running),
        one("pooled 10, worst only", "pooled", 10, **worst),
        one("pooled 10, tail .8", "pooled", 10),
        one("pooled 10, tail .3, max x 3", "pooled", 10, tail_fraction=0.3, max_weight=3),
        one("pooled 10, running worst only", "pooled", 10, **running, **worst),
        one("pooled 5, worst only", "pooled", 5, **worst),
    ]
    if moving == 1:  # with one cluster a class, the worst so far is the worst of the batch
        settings = [setting for setting in settings if setting.name != "moving, running worst"]
    return settings


class Study:
    """The runs of one dataset and IPC, stored one by one."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.regime = regime_of(arguments.dataset, arguments.ipc)
        self.name = f"{arguments.dataset}-ipc{arguments.ipc}"
        self.folder, self._source = arguments.folder, arguments.data or arguments.dataset
        self.store = arguments.folder / f"{self.name}.json"
        self.runs: dict[str, dict[str, Any]] = read_json(self.store) if self.store.exists() else {}
        self.looks: list[dict[str, Any]] = []
        """What the proxies of every setting reached, once `search` has run."""
        self.more_steps: dict[str, Any] = {}
        """What twice the proxy steps give to the plain side, as a measure of the differences."""
        self._data: dict[int | None, Data] = {}
        self._until = time.monotonic() + 60 * arguments.minutes

    def figures(self, setting: Setting, split: str, seed: int) -> dict[str, Any]:
        """Return the figures of a run, from the store or by doing it.

        Raises:
            SystemExit: When the minutes are over and it is not in the store.
        """
        key = f"{split}/{setting.name}/{seed}"
        if key not in self.runs:
            if time.monotonic() > self._until:
                raise SystemExit(f"the minutes are over; {len(self.runs)} runs in {self.store}")
            data = self._data_of(split, seed)
            started = time.process_time()
            if split == "proxy":
                figures = proxy_once(data, self.regime, setting, seed)
            else:
                figures = run_once(data, self.regime, setting, seed, split)
            self.runs[key] = figures | {"cpu_seconds": time.process_time() - started}
            write_json(self.store, self.runs)
            print(f"{self.name} {key}: {figures}", flush=True)
        return self.runs[key]

    def _data_of(self, split: str, seed: int) -> Data:
        """Return the data that a run sees, loaded once."""
        folds = self.regime.num_folds if split != "test" else 0
        fold = seed % folds if folds else None
        if fold not in self._data:
            folder = self.folder / f"data-{self.regime.dataset}"
            self._data[fold] = load_data(self.regime, self._source, folder, fold=fold)
        return self._data[fold]

    def differences(self, setting: Setting, split: str, seeds: tuple[int, ...]) -> dict[str, Any]:
        """Return the paired differences, robust less plain, of each figure."""
        plain = [self.figures(PLAIN, split, seed) for seed in seeds]
        robust = [self.figures(setting, split, seed) for seed in seeds]
        return {
            figure: [b[figure] - a[figure] for a, b in zip(plain, robust, strict=True)]
            for figure in FIGURES
        }

    def search(self) -> list[dict[str, Any]]:
        """Return what the settings that went on reached on validation, the best first."""
        everything = settings_of(self.regime.images_per_class)
        looks = {
            setting.name: {
                "setting": setting, **_summary(self.differences(setting, "proxy", PROXY_SEEDS))
            }
            for setting in everything
        }  # fmt: skip
        self.looks = list(looks.values())
        everything[1:] = sorted(
            everything[1:], key=lambda setting: -looks[setting.name]["cluster_min"]["mean"]
        )
        alive = everything[:GO_ON]
        rows: dict[str, dict[str, Any]] = {}
        seeds: tuple[int, ...] = ()
        for new in ROUNDS:
            seeds += new
            for setting in alive:
                found = self.differences(setting, "validation", seeds)
                rows[setting.name] = {"setting": setting, **_summary(found)}
            if len(seeds) == MORE_STEPS_SEEDS:
                self.more_steps = self._plain_with_more_steps(seeds)
            alive.sort(key=lambda setting: -rows[setting.name]["cluster_min"]["mean"])
            alive = alive[: max(2, len(alive) // 2)]
        return sorted(rows.values(), key=_rank)

    def _plain_with_more_steps(self, seeds: tuple[int, ...]) -> dict[str, Any]:
        """Return the row of plain proxies that were trained twice as long."""
        steps = 2 * self.regime.proxy.num_steps
        longer = Setting(name="plain, twice the proxy steps", proxy_steps=steps)
        return {"setting": longer, **_summary(self.differences(longer, "validation", seeds))}

    def test(self, winner: Setting) -> dict[str, Any]:
        """Return the winner's row on the test split; each seed is the mean of its sets."""
        sets = self.regime.test_sets
        seeds = tuple(seed + 1000 * number for seed in TEST_SEEDS for number in range(sets))
        found = self.differences(winner, "test", seeds)
        means = {
            figure: np.reshape(values, (len(TEST_SEEDS), sets)).mean(1).tolist()
            for figure, values in found.items()
        }
        return {"setting": winner, **_summary(means)}


def _rank(row: dict[str, Any]) -> tuple[bool, int, float]:
    """Order settings: no loss of accuracy first, then those seen longest, then by cluster-min."""
    loses = row["accuracy"]["mean"] < -LOST_ACCURACY
    return loses, -len(row["accuracy"]["differences"]), -row["cluster_min"]["mean"]


def _summary(differences: dict[str, list[float]]) -> dict[str, Any]:
    """Return mean and 95 % interval (Student's t) of paired differences."""
    rows = {}
    for figure, values in differences.items():
        mean = float(np.mean(values))
        error = float(np.std(values, ddof=1) / len(values) ** 0.5)
        half = float(student_t.ppf(0.975, len(values) - 1)) * error
        interval = [mean - half, mean + half]
        rows[figure] = {"mean": mean, "interval": interval, "differences": values}
    return rows


def _as_facts(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row for a result file."""
    setting: Setting = row["setting"]
    robust = {name: getattr(setting.robust, name) for name in GroupRobust.__slots__}
    return {
        "name": setting.name, "groups": setting.groups, "num_clusters": setting.num_clusters,
        "objective": robust, "proxy_steps": setting.proxy_steps,
        **{figure: row[figure] for figure in FIGURES},
    }  # fmt: skip


def _print(title: str, rows: list[dict[str, Any]]) -> None:
    """Print differences in points."""
    print(f"\n{title}: robust less plain, in points\n{'':36s}{'cluster-min':>24s}{'accuracy':>24s}")
    for row in rows:
        cells = [
            f"{100 * row[f]['mean']:+.2f} [{100 * row[f]['interval'][0]:+.1f}, "
            f"{100 * row[f]['interval'][1]:+.1f}]"
            for f in FIGURES
        ]
        runs = len(row["accuracy"]["differences"])
        print(f"{row['setting'].name:33s}{runs:3d}" + "".join(f"{cell:>24s}" for cell in cells))


def main() -> None:
    """Search on validation, or test the winner of the search."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("phase", choices=("search", "test"))
    parser.add_argument("--dataset", choices=("digits", "mnist", "cifar10"), default="mnist")
    parser.add_argument("--ipc", type=int, default=1)
    parser.add_argument("--data", help="folder of the dataset; digits need none")
    parser.add_argument("--folder", type=Path, default=Path("runs/robust-objective"))
    parser.add_argument("--minutes", type=float, default=float("inf"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_large_buffers()
    study = Study(arguments)
    searched = study.search()
    _print(f"{study.name}, proxies on validation", study.looks)
    _print(f"{study.name}, students on validation", [*searched, study.more_steps])
    if arguments.phase == "search":
        return
    tested = study.test(searched[0]["setting"])
    _print(f"{study.name}, test", [tested])
    path = RESULTS / RESULT
    stored = read_json(path) if path.exists() else {"studies": {}}
    stored["studies"][study.name] = {
        "proxies": [_as_facts(row) for row in study.looks],
        "search": [_as_facts(row) for row in searched],
        "plain_with_more_steps": _as_facts(study.more_steps),
        "test": _as_facts(tested),
        "runs": study.runs,
    }
    save(RESULT, {"question": __doc__.splitlines()[0], "studies": stored["studies"]})


if __name__ == "__main__":
    main()
