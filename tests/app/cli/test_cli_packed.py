"""show and export say that the images of a bundle are packed."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from distillery.bundle.dataset import DistilledDataset
from distillery.bundle.write import write_bundle

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A bundle of two images that hold four pictures each."""
    path = tmp_path / "distilled.safetensors"
    rng = np.random.default_rng(0)
    dataset = DistilledDataset(
        images=rng.integers(0, 256, (2, 1, 8, 8), dtype=np.uint8), labels=np.arange(2),
        weights=np.ones(2, np.float32), cluster_ids=np.zeros(2, np.int32),
        scores=np.zeros((2, 0), np.float32), seeds=np.arange(2), classes=("a", "b"),
        images_per_class=1, formation_factor=2,
    )  # fmt: skip
    write_bundle(path, dataset)
    return path


def test_show_says_how_many_pictures_an_image_holds(distillery: Command, packed: Path) -> None:
    code, out, _ = distillery("show", packed)
    assert code == 0 and "2 x 2 in each image" in out
    _, out, _ = distillery("show", packed, "--json")
    assert json.loads(out)["pictures_per_image"] == 4


def test_class_folders_hold_the_pictures_and_parquet_the_images(
    distillery: Command, packed: Path, tmp_path: Path
) -> None:
    code, out, _ = distillery("export", packed, tmp_path / "tree", "--to", "imagefolder")
    assert code == 0 and "the 8 pictures of 2 images in" in out
    assert len(list((tmp_path / "tree").rglob("*.png"))) == 8
    code, out, _ = distillery("export", packed, tmp_path / "table", "--to", "parquet")
    assert code == 0 and "2 images with 8 pictures in" in out
