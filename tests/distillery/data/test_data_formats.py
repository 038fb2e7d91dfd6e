"""Parquet, idx, safetensors and Hub datasets: what is found, and what is said where it is not."""

import gzip
import io
import json
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from distillery.data.config import DataConfig
from distillery.data.prepare import prepare_dataset
from distillery.data.source import Source
from distillery.data.sources.hub import licence_of, parse_hub_reference
from distillery.data.sources.resolve import open_source
from distillery.errors import ConfigError, DataError
from distillery.tensorfile import write_tensors


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (4, 4), value).save(buffer, "PNG")
    return buffer.getvalue()


def opened(path: Path | str, **fields) -> Source:
    return open_source(DataConfig(dataset=str(path), **fields))


def values_of(source: Source) -> list[tuple[str, int]]:
    """(class, gray level) of every item in order."""
    levels = [int(np.asarray(item.read()).flat[0]) for item in source.items]
    return [(source.class_names[i.label], v) for i, v in zip(source.items, levels, strict=True)]


def write_parquet(
    path: Path,
    labels: list,
    *,
    names: list[str] | None = None,
    column: str = "label",
    plain: bool = False,
    first: int = 0,
    **more: list,
) -> Path:
    """Rows whose image is uniformly their index; row groups of 4."""
    content = [png(first + index) for index in range(len(labels))]
    cells = content if plain else [{"bytes": c, "path": None} for c in content]
    table = pa.table({"image": cells, column: labels, **more})
    if names is not None:
        features = {"image": {"_type": "Image"}, column: {"_type": "ClassLabel", "names": names}}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        table = table.replace_schema_metadata(metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=4)
    return path


def test_parquet_with_class_names(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", [1, 0, 1, 0, 1, 0, 0], names=["zebra", "ape"])
    source = opened(path)
    assert source.class_names == (
        "zebra",
        "ape",
    )  # the order of the ClassLabel, not of the alphabet
    assert values_of(source) == [
        ("ape", 0), ("zebra", 1), ("ape", 2), ("zebra", 3), ("ape", 4), ("zebra", 5), ("zebra", 6),
    ]  # fmt: skip
    backwards = [int(np.asarray(i.read()).flat[0]) for i in source.items[::-1]]
    assert backwards == [6, 5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([10, 2, 10], ("2", "10")),
        (["dog", "猫", "dog"], ("dog", "猫")),
        (["10", "2", "2"], ("2", "10")),
    ],
)
def test_parquet_without_class_names(tmp_path: Path, labels: list, expected: tuple) -> None:
    source = opened(write_parquet(tmp_path / "x.parquet", labels, plain=True))
    assert source.class_names == expected
    assert [source.class_names[i.label] for i in source.items] == [str(v) for v in labels]


def test_parquet_folder_with_splits(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_parquet(data / "train-00000-of-00002.parquet", [0, 1, 0], names=["a", "b"])
    write_parquet(data / "train-00001-of-00002.parquet", [1, 1], names=["a", "b"], first=3)
    write_parquet(data / "validation-00000-of-00001.parquet", [0], names=["a", "b"], first=5)
    write_parquet(data / "extra-00000-of-00001.parquet", [0], names=["a", "b"])
    (tmp_path / "README.md").write_text("---\nlicense: cc0-1.0\n---\n# Toy\n")
    source = opened(tmp_path)
    assert [i.split for i in source.items] == ["train"] * 5 + ["validation"]
    assert [v for _, v in values_of(source)] == [0, 1, 2, 3, 4, 5]
    assert "extra-00000" in source.notes[0]
    assert source.licence == "cc0-1.0"


def test_parquet_splits_as_folders(tmp_path: Path) -> None:
    write_parquet(tmp_path / "default" / "train" / "0000.parquet", [0, 1])
    write_parquet(tmp_path / "default" / "test" / "0000.parquet", [0, 1])
    assert {i.split for i in opened(tmp_path).items} == {"train", "test"}
    write_parquet(tmp_path / "other" / "train" / "0000.parquet", [0, 1])
    message = r"several datasets, in the folders \['default', 'other'\]; .*ends in '.*/default'$"
    with pytest.raises(DataError, match=message):
        opened(tmp_path)
    assert len(opened(tmp_path / "default").items) == 4


def test_parquet_rows_without_labels_are_left_out(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", [0, None, 1, -1, 1], names=["a", "b"])
    source = opened(path)
    assert values_of(source) == [("a", 0), ("b", 2), ("b", 4)]
    assert source.notes == ("2 rows without a label were left out",)


def test_parquet_label_columns(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", [0, 1], column="fine_label", coarse=["u", "v"])
    assert opened(path).class_names == ("0", "1")
    assert opened(path, label_column="coarse").class_names == ("u", "v")
    with pytest.raises(DataError, match="no label column 'color'; its columns are"):
        opened(path, label_column="color")
    path = write_parquet(tmp_path / "y.parquet", [0, 1], column="species")
    with pytest.raises(DataError, match="name it with --set data.label_column=NAME"):
        opened(path)
    path = write_parquet(tmp_path / "z.parquet", [0.5, 1.0])
    with pytest.raises(DataError, match="whole numbers or texts, it holds double"):
        opened(path)
    path = write_parquet(tmp_path / "many.parquet", [[0, 1], [1]])
    with pytest.raises(DataError, match="it holds list"):
        opened(path)


def test_parquet_image_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"label": [0, 1], "size": [3, 4]}), tmp_path / "none.parquet")
    with pytest.raises(DataError, match="found none among"):
        opened(tmp_path / "none.parquet")
    two = pa.table({"label": [0, 1], "left": [png(1), png(2)], "right": [png(3), png(4)]})
    pq.write_table(two, tmp_path / "two.parquet")
    with pytest.raises(DataError, match=r"found \['left', 'right'\]"):
        opened(tmp_path / "two.parquet")


def test_parquet_that_contradicts_itself(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds label 2, but there are 2 class names"):
        opened(write_parquet(tmp_path / "x.parquet", [0, 1, 2], names=["a", "b"]))
    with pytest.raises(DataError, match="'a' occurs twice"):
        opened(write_parquet(tmp_path / "y.parquet", [0, 1], names=["a", "a"]))
    write_parquet(tmp_path / "z" / "train-0.parquet", [0, 1], names=["a", "b"])
    write_parquet(tmp_path / "z" / "test-0.parquet", [0, 1], names=["b", "a"])
    with pytest.raises(DataError, match="other columns or class names"):
        opened(tmp_path / "z")


def test_broken_parquet(tmp_path: Path) -> None:
    whole = write_parquet(tmp_path / "x.parquet", [0, 1]).read_bytes()
    for content in (whole[:-20], b"PAR1", b"PAR1" + bytes(100) + b"PAR1",
                    whole.replace(b"label", b"lab\xffl")):  # fmt: skip
        (tmp_path / "y.parquet").write_bytes(content)
        with pytest.raises(DataError, match="no usable Parquet file"):
            opened(tmp_path / "y.parquet")


def test_a_row_without_bytes_is_a_bad_file(tmp_path: Path) -> None:
    table = pa.table({"image": [{"bytes": None, "path": "/etc/passwd"}] * 2, "label": [0, 1]})
    table = table.cast(
        pa.schema({"image": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
                   "label": pa.int64()})
    )  # fmt: skip
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="no image bytes"):
        opened(tmp_path / "x.parquet").items[0].read()


def test_cifar10(shared_data: Path) -> None:
    source = opened(shared_data / "cifar10")
    assert source.class_names[:2] == ("airplane", "automobile")
    assert [i.split for i in source.items[::30_000]] == ["test", "train"]
    assert source.items[25_123].read().size == (32, 32)
    assert len(source.items) == 60_000


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    content = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def make_idx(folder: Path, suffix: str = "", prefix: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", 6), ("t10k", 4)):
        images = np.broadcast_to(np.arange(count)[:, None, None], (count, 5, 4))
        write_idx(folder / f"{prefix}{split}-images-idx3-ubyte{suffix}", images)
        write_idx(folder / f"{prefix}{split}-labels-idx1-ubyte{suffix}", np.arange(count) % 2 + 3)
    return folder


def test_idx_files(tmp_path: Path) -> None:
    source = opened(make_idx(tmp_path, ".gz"))
    assert source.kind == "idx" and source.class_names == ("3", "4")
    assert [i.split for i in source.items] == ["test"] * 4 + ["train"] * 6
    assert values_of(source)[4:] == [("3", 0), ("4", 1), ("3", 2), ("4", 3), ("3", 4), ("4", 5)]
    assert source.items[0].read().shape == (1, 5, 4)


def test_idx_as_torchvision_keeps_it(tmp_path: Path) -> None:
    make_idx(tmp_path / "raw", ".gz")
    make_idx(tmp_path / "raw")  # unpacked beside the packed ones
    assert len(opened(tmp_path).items) == 10


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_one_idx_file_is_answered_with_the_folder_to_name(tmp_path: Path, suffix: str) -> None:
    make_idx(tmp_path, suffix)
    with pytest.raises(DataError, match="name the folder that holds the images and labels files"):
        opened(tmp_path / f"train-images-idx3-ubyte{suffix}")
    renamed = (tmp_path / f"t10k-labels-idx1-ubyte{suffix}").rename(tmp_path / "labels")
    message = "name the folder" if not suffix else "no usable tar file"  # told by its first bytes
    with pytest.raises(DataError, match=message):
        opened(renamed)


def test_idx_files_that_do_not_fit(tmp_path: Path) -> None:
    make_idx(tmp_path)
    images = tmp_path / "train-images-idx3-ubyte"
    whole = images.read_bytes()
    for content, message in (
        (whole[:-1], "should hold 120 values, it holds 119"),
        (whole + b"x", "holds more"),
        (b"\0\0\x09\x03" + whole[4:], "does not start like one"),
        (whole[:4] + struct.pack(">3I", 2**31, 2**31, 2**31), "claims"),
        (whole[:7], "no usable idx"),
    ):
        images.write_bytes(content)
        with pytest.raises(DataError, match=message):
            opened(tmp_path)
    write_idx(images, np.zeros((7, 5, 4)))
    with pytest.raises(DataError, match="as many labels as images"):
        opened(tmp_path)
    images.unlink()
    with pytest.raises(DataError, match="lacks the images or the labels of 'train'"):
        opened(tmp_path)
    make_idx(tmp_path, prefix="emnist-")
    with pytest.raises(DataError, match="several datasets"):
        opened(tmp_path)


def test_a_gzip_bomb_among_idx_files(tmp_path: Path) -> None:
    make_idx(tmp_path, ".gz")
    bomb = bytes([0, 0, 8, 3]) + struct.pack(">3I", 6, 5, 4) + bytes(10_000_000)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(bomb))
    with pytest.raises(DataError, match="it holds more"):
        opened(tmp_path)


def test_mnist(shared_data: Path) -> None:
    source = opened(shared_data / "mnist")
    assert len(source.items) == 70_000 and source.class_names == tuple("0123456789")
    first = next(item for item in source.items if item.split == "train")
    assert first.label == 5 and first.read().sum() == 27_525  # the well-known first five


IMAGES = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 4, 4), np.uint8)
LABELS = np.array([0, 0, 1, 1, 1, 0])


def test_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    arrays = {"images": IMAGES, "labels": LABELS, "weights": np.ones(6, np.float32)}
    write_tensors(path, arrays, {"classes": '["猫", "dog"]'})
    source = opened(path)
    assert values_of(source)[1:3] == [("猫", 1), ("dog", 2)]
    write_tensors(path, {"images": IMAGES, "labels": LABELS * 9 + 1}, {})
    assert opened(path).class_names == ("1", "10")


@pytest.mark.parametrize(
    ("arrays", "metadata", "message"),
    [
        ({"images": IMAGES}, {}, "lacks the tensor 'labels'"),
        ({"images": IMAGES.astype(np.float32), "labels": LABELS}, {}, "must be uint8"),
        ({"images": IMAGES.transpose(0, 2, 3, 1), "labels": LABELS}, {}, "must be uint8"),
        ({"images": IMAGES, "labels": LABELS[:5]}, {}, "must be integers"),
        ({"images": IMAGES, "labels": LABELS.astype(np.float64)}, {}, "must be integers"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, {}, "holds no images"),
        ({"images": IMAGES, "labels": LABELS - 1}, {"classes": '["a", "b"]'}, "labels -1 to 0"),
        ({"images": IMAGES, "labels": LABELS}, {"classes": '{"a": 1}'}, "JSON list"),
        ({"images": IMAGES, "labels": LABELS}, {"classes": "[" * 10_000}, "JSON list"),
        ({"images": IMAGES, "labels": LABELS * 0}, {}, "two classes or more"),
    ],
)
def test_safetensors_of_another_kind(tmp_path: Path, arrays, metadata, message: str) -> None:
    write_tensors(tmp_path / "x.safetensors", arrays, metadata)
    with pytest.raises(DataError, match=message):
        opened(tmp_path / "x.safetensors")


def test_broken_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"images": IMAGES, "labels": LABELS})
    whole = path.read_bytes()
    for content in (whole[:-1], whole + b"x", b"", struct.pack("<Q", 2**60) + whole[8:]):
        path.write_bytes(content)
        with pytest.raises(DataError, match="no usable safetensors"):
            opened(path)


def test_hub_references() -> None:
    assert parse_hub_reference("org/name", None) == ("org/name", None)
    assert parse_hub_reference("org/name@main", None) == ("org/name", "main")
    assert parse_hub_reference("org/name", "v1") == ("org/name", "v1")
    for text in (
        "name",
        "a/b/c",
        "../x",
        "org/..",
        "org/a--b",
        "https://x/y",
        "org/name@",
        "o/n@ x",
    ):
        assert parse_hub_reference(text, None) is None
    with pytest.raises(ConfigError, match="keep one of them"):
        parse_hub_reference("org/name@a", "b")


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A local Hub cache; files of a snapshot are links to blobs, as the real one has them."""
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return cache


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def add_to_cache(cache: Path, name: str, files: dict[str, bytes]) -> None:
    repository = cache / f"datasets--org--{name}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "blobs").mkdir()
    for number, (path, content) in enumerate(files.items()):
        (repository / "blobs" / str(number)).write_bytes(content)
        link = repository / "snapshots" / COMMIT / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(repository / "blobs" / str(number))


def test_hub_dataset_from_the_cache(tmp_path: Path, hub_cache: Path) -> None:
    rows = write_parquet(tmp_path / "x.parquet", [0, 1, 1], names=["a", "b"]).read_bytes()
    card = b"---\nlicense:\n- mit\n---\n"
    add_to_cache(hub_cache, "rows", {"data/train-0.parquet": rows, "README.md": card})
    source = opened("org/rows")
    assert (source.kind, source.reference, source.revision) == ("hub", "org/rows", COMMIT)
    assert source.licence == "mit" and len(values_of(source)) == 3
    assert opened(f"org/rows@{COMMIT}").revision == COMMIT

    add_to_cache(hub_cache, "files", {"a/1.png": png(1), "b/2.png": png(2)})
    assert values_of(opened("org/files")) == [("a", 1), ("b", 2)]
    add_to_cache(hub_cache, "code", {"dataset.py": b"raise SystemExit"})
    with pytest.raises(DataError, match="no image at all"):
        opened("org/code")


def test_a_hub_id_of_several_datasets_is_answered_with_what_to_type(
    tmp_path: Path, hub_cache: Path
) -> None:
    rows = write_parquet(tmp_path / "x.parquet", [0, 1]).read_bytes()
    files = {f"{size}/{split}/0.parquet": rows for size in ("160px", "320px")
             for split in ("train", "validation")}  # fmt: skip
    add_to_cache(hub_cache, "sizes", files)
    told = (
        r"\['160px', '320px'\]; fetch one with 'hf download --repo-type dataset org/sizes "
        r"--include \"160px/\*\" --local-dir DIR' and name its folder, DIR/160px"
    )
    with pytest.raises(DataError, match=told):
        opened("org/sizes")


@pytest.mark.parametrize("allow_download", [False, True])
def test_hub_dataset_that_is_not_there(hub_cache: Path, allow_download: bool) -> None:
    reason = "the Hub cannot be reached" if allow_download else "downloads are off"
    with pytest.raises(DataError, match=f"not in the local cache: {reason}"):
        opened("org/none", allow_download=allow_download)


def test_licences(tmp_path: Path) -> None:
    for text, expected in (
        ("---\nlicense: apache-2.0\n---", "apache-2.0"),
        ("---\ntags: [x]\nlicense: 'cc-by-4.0'\n---\nlicense: no", "cc-by-4.0"),
        ("license: none-of-ours\n", None),
        ("---\ntags: [x]\n---\nlicense: no", None),
    ):
        (tmp_path / "README.md").write_text(text)
        assert licence_of(tmp_path) == expected
    assert licence_of(tmp_path / "nowhere") is None


def test_every_source_can_be_prepared(tmp_path: Path) -> None:
    write_parquet(tmp_path / "x.parquet", [0, 1] * 10, names=["a", "b"])
    make_idx(tmp_path / "idx")
    config = DataConfig(min_images_per_class=2)
    for number, name in enumerate(("x.parquet", "idx")):
        folder = tmp_path / str(number)
        folder.mkdir()
        with opened(tmp_path / name) as source:
            facts = prepare_dataset(source, config=config, image_size=4, channels=1, folder=folder)
        assert not facts["bad_files"] and min(facts["counts"]["train"]) >= 2
