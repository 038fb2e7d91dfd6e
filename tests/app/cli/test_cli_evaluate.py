"""`distillery evaluate` as a user calls it, with good and bad input."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distillery.data.sources.digits import open_digits

Command = Callable[..., tuple[int, str, str]]
SMALL = ("--network", "convnet-d2-w8", "--epochs", 30, "--repeats", 2)


@pytest.fixture
def digits_folder(tmp_path: Path) -> Path:
    """Six training digits of each class, as PNG files in folders `0` to `9`."""
    folder = tmp_path / "six"
    with open_digits() as source:
        for label in range(10):
            (folder / str(label)).mkdir(parents=True)
            items = [i for i in source.items if i.split == "train" and i.label == label][:6]
            for item in items:
                pixels = np.asarray(item.read())[0]
                Image.fromarray(pixels).save(folder / str(label) / f"{item.name}.png")
    return folder


def test_a_plain_folder_is_judged_and_a_repeat_is_not_trained_again(
    distillery: Command, digits_folder: Path, tmp_path: Path
) -> None:
    result = tmp_path / "result.json"
    options = (digits_folder, "--dataset", "digits", "--protocol", "robust-rdd", *SMALL)
    code, out, err = distillery("evaluate", *options, "--out", result)
    assert code == 0, err
    assert "600 test images of digits" in out and "Trained on hard labels" in out
    assert "Protocol robust-rdd, not as published" in out and "30 epochs in place of 1000" in out
    assert "not as published: convnet-d2-w8 in place of convnet-d3-w128" in err
    found = json.loads(result.read_text())
    (row,) = found["results"]["hard"]
    assert row["accuracy"]["mean"] > 0.3 and row["cluster_min"]["mean"] < row["accuracy"]["mean"]
    assert found["set"]["images_per_class"] == 6 and found["dataset"]["num_test"] == 600
    code, out, _ = distillery("evaluate", *options, "--json")
    events = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and events[-1]["event"] == "result"
    assert events[-1]["results"] == found["results"]
    assert len(list((tmp_path / "cache" / "evaluations").glob("[!.]*"))) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--protocol", "best"), "protocol must be one of dc-small"),
        (("--network", "lenet"), "network must be one of"),
        (("--network", "convnet-d9-w8"), "does not fit images of 8 pixels"),
        (("--epochs", 0), "epochs must be 1 or more"),
        (("--protocol", "soft-rded"), "1, 10 and 50 images per class, this set has 6"),
        (("--protocol", "soft-rded", "--teacher", "bundle"), "use --teacher train"),
        (("--protocol", "retrieval"), "name it with --target"),
        (("--teacher", "bundle"), "has hard labels"),
        (("--teacher-epochs", "3"), "trains no teacher here: leave --teacher-epochs out"),
        (("--protocol", "continual", "--best"), "continual has no best epoch: leave --best out"),
        (("--out", "absent/result.json"), "there is no folder"),
        (("--dataset", "nothing-here"), "no dataset 'nothing-here'"),
    ],
)
def test_bad_input_ends_in_one_sentence(
    distillery: Command, digits_folder: Path, options: tuple, message: str
) -> None:
    code, out, err = distillery("evaluate", digits_folder, "--dataset", "digits", *options)
    assert code == 2 and not out
    last = err.splitlines()[-1]
    assert last.startswith("error: ") and message in last and "Traceback" not in err


def test_classes_of_another_dataset_are_named(distillery: Command, digits_folder: Path) -> None:
    (digits_folder / "9").rename(digits_folder / "cat")
    code, _, err = distillery("evaluate", digits_folder, "--dataset", "digits", *SMALL)
    assert code == 2 and "lacks '9' and has 'cat'" in err
