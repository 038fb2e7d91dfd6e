"""The CIFAR-10 tables: which cell comes next, and what a table says about its rows."""

import json

import pytest

from benchmarks.cifar_quick import Schedule, parse
from benchmarks.cifar_rows import ROWS, row_named
from benchmarks.cifar_table import PUBLISHED, summary


def _cell(row: str, seed: int, accuracy: float) -> dict:
    figures = dict.fromkeys(("cluster_min", "noise", "blur", "invert"), accuracy / 2)
    costs = {"seconds": 60.0, "iterations": 100, "peak_mib": 900.0, "wall_seconds": 120.0}
    published = None if row_named(row).base is None else 20_000
    own = {"row": row, "seed": seed, "accuracy": accuracy, "published_iterations": published}
    return own | figures | costs


def test_every_row_with_a_published_figure_is_a_row() -> None:
    assert set(PUBLISHED) <= {row.name for row in ROWS}


def test_a_table_has_means_errors_orders_and_empty_rows() -> None:
    cells = [_cell("dm", seed, value) for seed, value in enumerate((0.40, 0.42))]
    cells += [_cell("ours", seed, value) for seed, value in enumerate((0.50, 0.54))]
    cells += [_cell("random", 0, 0.41)]
    table = summary(cells, {})

    dm = table["rows"]["dm"]
    assert dm["accuracy"]["mean"] == pytest.approx(0.41)
    assert dm["accuracy"]["standard_error"] == pytest.approx(0.01)
    assert dm["share_of_schedule"] == pytest.approx(100 / 20_000)
    assert table["rows"]["dsa"] == {
        "label": "DSA", "seeds": 0, "share_of_schedule": None,
        **dict.fromkeys(("accuracy", "cluster_min", "noise", "blur", "invert")),
        **dict.fromkeys(("seconds", "iterations", "peak_mib", "wall_seconds")),
    }  # fmt: skip
    assert table["ours_ahead"]["best"] in ("dm", "random")
    assert table["ours_ahead"]["ahead"] == pytest.approx(0.11)
    order = {(one["worse"], one["better"]): one["holds"] for one in table["expected_order"]}
    assert order == {
        ("random", "herding"): None, ("herding", "dm"): None, ("dm", "dm+both"): None,
        ("dm", "idm"): None,
    }  # fmt: skip


def test_cells_come_seed_by_seed_and_only_where_the_time_reaches(tmp_path) -> None:
    arguments = ["--data", "x", "--folder", str(tmp_path), "--rows", "random", "dm"]
    schedule = Schedule(parse([*arguments, "--minutes", "30", "--seeds", "2"]))
    assert schedule.cells == [("random", 0), ("dm", 0), ("random", 1), ("dm", 1)]
    schedule.path(("random", 0)).write_text(json.dumps(_cell("random", 0, 0.3)))
    assert schedule.next(set()) == ("dm", 0)
    assert schedule.next({("dm", 0)}) == ("random", 1)

    short = Schedule(parse([*arguments, "--minutes", "1"]))
    assert short.next(set()) is None  # a cell took two minutes
