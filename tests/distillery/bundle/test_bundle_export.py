"""PNG trees and Parquet keep every pixel, the order of classes and the mark of a made image."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distillery.bundle.dataset import DistilledDataset
from distillery.bundle.export import (
    class_folder,
    encode_png,
    export_imagefolder,
    export_parquet,
    write_parquet,
)
from distillery.errors import BundleError

MARK = "digitalsourcetype/trainedAlgorithmicMedia"


def pixels_of(picture: Image.Image) -> np.ndarray:
    array = np.asarray(picture)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_keeps_the_pixels_and_says_that_a_model_made_it(
    make_dataset: Callable[..., DistilledDataset], channels: int
) -> None:
    image = make_dataset(channels=channels).images[0]
    with Image.open(io.BytesIO(encode_png(image))) as picture:
        np.testing.assert_array_equal(pixels_of(picture), image)
        assert MARK in picture.text["XML:com.adobe.xmp"]


@pytest.mark.parametrize(
    ("origin", "mark"), [("refined", "/algorithmicallyEnhanced"), ("real", None)]
)
def test_pngs_of_real_images_do_not_say_that_a_model_made_them(
    tmp_path: Path, make_dataset: Callable[..., DistilledDataset], origin: str, mark: str | None
) -> None:
    export_imagefolder(make_dataset(origin=origin), tmp_path / "tree")
    with Image.open(next((tmp_path / "tree").rglob("*.png"))) as picture:
        found = picture.text.get("XML:com.adobe.xmp")
    assert MARK not in (found or "") and (found is None if mark is None else mark in found)


def test_the_tree_sorts_by_label_whatever_the_classes_are_called(
    tmp_path: Path, make_dataset: Callable[..., DistilledDataset]
) -> None:
    """ "2" before "10", and "zebra" before "ant": loaders sort folders as text."""
    dataset = make_dataset(classes=("2", "10", "zebra", "ant"))

    export_imagefolder(dataset, tmp_path / "tree")

    folders = sorted(path.name for path in (tmp_path / "tree").iterdir())
    assert folders == ["0000_2", "0001_10", "0002_zebra", "0003_ant"]
    files = sorted((tmp_path / "tree").rglob("*.png"))
    assert len(files) == 12
    for row, path in enumerate(files):
        with Image.open(path) as picture:
            np.testing.assert_array_equal(pixels_of(picture), dataset.images[row])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("../../etc/passwd", "0007_etc_passwd"),
        ("a\\b:c*?\n", "0007_a_b_c"),
        ("金魚", "0007_金魚"),
        ("...", "0007"),
        ("CON", "0007_CON"),
        ("魚" * 300, "0007_" + "魚" * 40),
    ],
)
def test_folder_names_are_safe(name: str, expected: str) -> None:
    assert class_folder(7, name, 10) == expected
    assert len(expected.encode()) <= 255


def test_folder_names_grow_with_the_number_of_classes() -> None:
    assert class_folder(7, "a", 20_000) == "00007_a"


def test_parquet_holds_images_labels_and_the_class_table(
    tmp_path: Path, dataset: DistilledDataset
) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    export_parquet(dataset, tmp_path / "hub")

    table = pq.read_table(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet")
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]

    assert features["image"] == {"_type": "Image"}
    assert features["label"] == {"_type": "ClassLabel", "names": list(dataset.classes)}
    assert table["label"].to_pylist() == dataset.labels.tolist()
    assert table["seed"].to_pylist() == dataset.seeds.tolist()
    np.testing.assert_array_equal(table["score_tail"].to_numpy(), dataset.scores[:, 1])
    logits = np.array(table["teacher_logits"].to_pylist(), np.float16)
    np.testing.assert_array_equal(logits, dataset.teacher_logits)
    assert set(features) == set(table.column_names)
    for row, image in enumerate(table["image"].to_pylist()):
        with Image.open(io.BytesIO(image["bytes"])) as picture:
            np.testing.assert_array_equal(pixels_of(picture), dataset.images[row])


def test_parquet_has_small_row_groups_and_equal_bytes(
    make_dataset: Callable[..., DistilledDataset],
) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    dataset = make_dataset(images_per_class=60, teacher_logits=None)
    first, second = io.BytesIO(), io.BytesIO()
    write_parquet(dataset, first)
    write_parquet(dataset, second)

    assert first.getvalue() == second.getvalue()
    meta = pq.ParquetFile(first).metadata
    assert [meta.row_group(i).num_rows for i in range(meta.num_row_groups)] == [100, 100, 40]


@pytest.mark.parametrize("export", [export_imagefolder, export_parquet])
def test_a_folder_that_exists_is_refused_and_left_as_it_is(
    tmp_path: Path,
    dataset: DistilledDataset,
    export: Callable[[DistilledDataset, Path], None],
) -> None:
    (tmp_path / "keep.txt").write_text("mine")
    with pytest.raises(BundleError, match="exists already: name a new folder"):
        export(dataset, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["keep.txt"]
