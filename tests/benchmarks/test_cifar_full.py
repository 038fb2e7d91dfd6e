"""The full table on a sliver: cut by the clock, called again, it ends as a run that was not cut."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import cifar_full
from distillery.errors import Cancelled
from distillery.files import read_json


@pytest.fixture(autouse=True)
def _few_test_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.cifar_quick.NUM_GROUPS", 2)


def _options(folder: Path) -> list[str]:
    """Decoded images of ten classes where the benchmark looks for them, and a sliver of work."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    arrays = {}
    for name, count in (("train", 45), ("validation", 0), ("test", 7)):
        labels = np.repeat(np.arange(10), count)
        arrays[f"{name}_labels"] = labels
        images = rng.integers(0, 150, (len(labels), 3, 32, 32), dtype=np.uint8)
        arrays[f"{name}_images"] = images + labels.astype(np.uint8)[:, None, None, None] * 10
    np.savez(folder / "cifar10-45-all.npz", **arrays)
    return [
        "--data", str(folder), "--folder", str(folder), "--rows", "dm", "idm", "--iterations", "2",
        "--epochs", "2", "--per-class", "45", "--network", "convnet-d1-w4", "--device", "cpu",
        "--architectures", "convnet-d1-w4", "convnet-d2-w4",
    ]  # fmt: skip


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("set-*.safetensors")}


def _figures(folder: Path) -> dict[str, dict]:
    found = {path.name: read_json(path) for path in (folder / "figures").glob("*.json")}
    return {name: {k: v for k, v in f.items() if k != "wall_seconds"} for name, f in found.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a table that was not cut."""
    folder = tmp_path_factory.mktemp("table") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.cifar_quick.NUM_GROUPS", 2)
        cifar_full.main(_options(folder))
    return folder


@pytest.mark.parametrize("looks", [2, 4, 7])  # within the first set, its students, the second set
def test_a_table_that_was_cut_ends_as_one_that_was_not(
    looks: int, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = tmp_path / "cut"
    assert read_json(whole / "table.json")["is_complete"] is True
    left = [looks]

    def check(self: cifar_full.Clock, _: int = 0) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Cancelled

    options = _options(cut)
    with monkeypatch.context() as patch:
        patch.setattr(cifar_full.Clock, "check", check)
        cifar_full.main(options)
    assert read_json(cut / "table.json")["is_complete"] is False
    assert len(_figures(cut)) < 4
    cifar_full.main(options)
    assert _files(cut) == _files(whole)
    assert len(_figures(whole)) == 4 and _figures(cut) == _figures(whole)
    table = read_json(cut / "table.json")
    assert table["rows"]["dm"]["convnet-d2-w4"]["iterations"] == 2
    assert table["rows"]["dsa"]["convnet-d1-w4"] is None  # not asked for, so empty
    assert "2 epochs in place of 1000" in table["protocol"]["deviations"]


def test_no_minutes_left_is_no_work(tmp_path: Path) -> None:
    folder = tmp_path / "none"
    cifar_full.main([*_options(folder), "--minutes", "0"])
    assert not _files(folder) and not _figures(folder)


def test_the_clock_ends_the_training_of_the_network_of_centralisation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, published = tmp_path / "judge", cifar_full.row_setting
    monkeypatch.setattr(
        cifar_full, "row_setting", lambda options: replace(published(options), judge="resnet10-w4")
    )
    options = [*_options(folder), "--rows", "dm+both", "--minutes", "0.02"]
    cifar_full.main(options)  # its thousands of steps would take hours
    assert read_json(folder / "table.json")["is_complete"] is False
    assert not _files(folder)


def test_students_are_those_of_the_published_protocol(tmp_path: Path) -> None:
    options = cifar_full.parse(["--data", str(tmp_path)])
    setting = cifar_full.protocol(options)
    assert tuple(setting.recipes) == cifar_full.ARCHITECTURES
    recipe = setting.recipes["convnet-d3-w128"]
    assert (recipe.num_epochs, recipe.batch_size, recipe.optimizer) == (1000, 256, "sgd")
    assert (options.per_class, options.iterations) == (5000, None)
