"""A prepared dataset: the same content gives the same bytes, broken files are named."""

import errno
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distillery.data.config import DataConfig
from distillery.data.dataset import Dataset
from distillery.data.prepare import prepare_dataset
from distillery.data.source import Item, Source
from distillery.data.sources.resolve import open_source
from distillery.data.survey import survey
from distillery.data.tensorstream import ImageStream
from distillery.errors import Cancelled, DataError
from distillery.progress import Progress
from distillery.tensorfile import encode_tensors

CONFIG = DataConfig(min_images_per_class=3)


def make_source(count: int = 20, broken: tuple[int, ...] = (), **fields) -> Source:
    """Two classes in turn; image i is uniformly i gray; those in `broken` cannot be read."""

    def read(index: int) -> np.ndarray:
        if index in broken:
            raise OSError("is cut short")
        return np.full((1, 4, 4), index % 256, np.uint8)

    items = [Item(f"{i:04d}", i % 2, None, lambda i=i: read(i)) for i in range(count)]
    options = {"kind": "folder", "reference": "toy", "class_names": ("a", "b")} | fields
    return Source(items=items, **options)


def prepare(source: Source, folder: Path, config: DataConfig = CONFIG, **options) -> dict:
    folder.mkdir()
    return prepare_dataset(
        source, config=config, image_size=4, channels=1, folder=folder, **options
    )


def test_digits_have_fixed_stratified_splits(tmp_path: Path) -> None:
    config = DataConfig(split_seed=99)  # has no say here
    with open_source(config) as source:
        look = survey(source)
        facts = prepare_dataset(source, config=config, image_size=8, channels=1, folder=tmp_path)
    assert (look.native_size, look.gray) == (8, True)
    data = Dataset.load(tmp_path)
    assert {s: len(data.indices(s)) for s in data.splits} == {
        "train": 997, "validation": 200, "test": 600,
    }  # fmt: skip
    assert max(facts["counts"]["test"]) - min(facts["counts"]["test"]) <= 3
    assert data.images.dtype == np.uint8 and data.images.max() == 255 and data.images.min() == 0
    assert not facts["duplicates"]["count"]
    again = tmp_path / "again"
    again.mkdir()
    with open_source(DataConfig()) as source:
        prepare_dataset(source, config=DataConfig(), image_size=8, channels=1, folder=again)
    assert Dataset.load(again).fingerprint == data.fingerprint


def test_images_labels_and_splits_come_back(tmp_path: Path) -> None:
    facts = prepare(make_source(), tmp_path / "out")
    data = Dataset.load(tmp_path / "out")
    assert data.facts == facts and data.class_names == ("a", "b")
    assert (data.image_size, data.channels) == (4, 1)
    assert data.images[:, 0, 0, 0].tolist() == list(range(20))
    assert data.labels.tolist() == [0, 1] * 10
    every = np.concatenate([data.indices(s) for s in ("train", "validation", "test")])
    assert sorted(every.tolist()) == list(range(20))
    assert facts["counts"] == {"train": [7, 7], "validation": [1, 1], "test": [2, 2]}
    images, labels = data.split("test")
    assert (images[:, 0, 0, 0] % 2 == labels).all()
    with pytest.raises(ValueError, match="one of"):
        data.split("dev")


def test_the_tensor_file_is_canonical_and_read_by_the_stock_reader(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    for count, broken in ((20, ()), (1000, (0, 999))):
        folder = tmp_path / str(count)
        prepare(make_source(count, broken), folder)
        arrays = load_file(folder / "images.safetensors")
        assert len(arrays["images"]) == count - len(broken)
        assert (folder / "images.safetensors").read_bytes() == encode_tensors(arrays)


def test_images_move_up_where_the_header_gets_shorter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distillery.data.tensorstream.COPY_BYTES", 7)  # several overlapping moves
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 4), np.uint8)
    labels = np.array([0, 1, 2, 3, 4])
    expected = encode_tensors({"images": images, "labels": labels})
    for max_images in (5, 10**9):
        with ImageStream(tmp_path / "x.safetensors", max_images, (3, 4, 4)) as stream:
            assert not (tmp_path / "x.safetensors").exists()
            for image in images:
                stream.write(image.tobytes())
            stream.finish(labels)
        assert (tmp_path / "x.safetensors").read_bytes() == expected
        (tmp_path / "x.safetensors").unlink()


def test_broken_files_are_named_and_do_not_change_the_fingerprint(tmp_path: Path) -> None:
    source = make_source(20)
    broken = Item("0003-broken", 1, None, lambda: (_ for _ in ()).throw(OSError("is cut short")))
    whole = prepare(source, tmp_path / "whole")
    source = make_source()
    mixed = Source(kind="x", reference="y", class_names=("a", "b"), items=[*source.items, broken])
    facts = prepare(mixed, tmp_path / "mixed")
    assert facts["bad_files"] == [{"name": "0003-broken", "reason": "is cut short"}]
    assert facts["fingerprint"] == whole["fingerprint"]


def failing(error: Exception) -> Source:
    def read() -> np.ndarray:
        raise error

    broken = Item("0003-broken", 1, None, read)
    items = [*make_source().items, broken]
    return Source(kind="folder", reference="toy", class_names=("a", "b"), items=items)


def test_the_reason_of_a_bad_file_names_no_folder_of_the_machine(tmp_path: Path) -> None:
    gone = FileNotFoundError(errno.ENOENT, "No such file or directory", "/home/me/b/3.png")
    facts = prepare(failing(gone), tmp_path / "out")
    assert facts["bad_files"] == [{"name": "0003-broken", "reason": "No such file or directory"}]


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ENOMEM])
def test_a_machine_that_cannot_read_stops_the_work_and_blames_no_file(
    tmp_path: Path, number: int
) -> None:
    error = OSError(number, "Input/output error", "/home/me/b/3.png")
    message = r"'0003-broken' could not be read \(Input/output error\).*run the job again"
    with pytest.raises(DataError, match=message):
        prepare(failing(error), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(DataError, match=message):
        survey(failing(error))


def test_listing_order_has_no_influence_but_every_fact_of_the_data_has(tmp_path: Path) -> None:
    source = make_source()
    base = prepare(source, tmp_path / "base")["fingerprint"]
    backwards = Source(
        kind="other", reference="else", class_names=("a", "b"), items=source.items[::-1]
    )
    assert prepare(backwards, tmp_path / "backwards")["fingerprint"] == base
    renamed = prepare(make_source(class_names=("a", "c")), tmp_path / "renamed")
    reseeded = prepare(
        make_source(), tmp_path / "seed", DataConfig(min_images_per_class=3, split_seed=1)
    )
    fewer = prepare(make_source(19), tmp_path / "fewer")
    assert len({base, *(f["fingerprint"] for f in (renamed, reseeded, fewer))}) == 4


def test_a_class_with_too_few_images_is_refused(tmp_path: Path) -> None:
    source = make_source(20, broken=tuple(range(1, 16, 2)))
    with pytest.raises(DataError, match=r"needs 3 training images, class 'b' has 1 .*'0001'"):
        prepare(source, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def given_source(splits: str, broken: tuple[int, ...] = (), **fields) -> Source:
    """As `make_source`, image i in the split whose first letter stands at i."""
    names = {"t": "train", "v": "validation", "e": "test"}
    plain = make_source(len(splits), broken, **fields)
    items = [replace(i, split=names[s]) for i, s in zip(plain.items, splits, strict=True)]
    return replace(plain, items=items)


@pytest.mark.parametrize("splits", ["tttttttttteeee", "ttttttttttvveeee"])
@pytest.mark.parametrize(("letter", "name"), [("e", "test"), ("t", "train")])
def test_a_given_split_of_broken_files_is_refused_instead_of_drawn(
    tmp_path: Path, splits: str, letter: str, name: str
) -> None:
    broken = tuple(i for i, split in enumerate(splits) if split == letter)
    message = rf"has a {name} split, but none of its files can be used .* which is cut short"
    with pytest.raises(DataError, match=message):
        prepare(given_source(splits, broken), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    facts = prepare(given_source(splits, broken[1:]), tmp_path / "one") if letter == "e" else None
    assert facts is None or sum(facts["counts"]["test"]) == 1


def test_a_given_validation_split_of_broken_files_is_refused(tmp_path: Path) -> None:
    source = given_source("ttttttttttvveeee", (10, 11))
    with pytest.raises(DataError, match="remove the validation split to have one drawn"):
        prepare(source, tmp_path / "out")


def test_a_class_that_a_held_out_split_lacks_is_noted(tmp_path: Path) -> None:
    facts = prepare(given_source("ttttttttttvvee", (10, 13)), tmp_path / "out")
    assert facts["notes"] == [
        "class 'a' has no validation images: choices between results know nothing of it",
        "class 'b' has no test images: figures say nothing of it",
    ]


def test_cancelling_leaves_nothing_behind(tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.step:
            raise Cancelled

    with pytest.raises(Cancelled):
        prepare(make_source(200), tmp_path / "out", on_progress=stop)
    assert list((tmp_path / "out").iterdir()) == []


def test_repeated_and_leaked_images_are_found(tmp_path: Path) -> None:
    values = {0: 7, 2: 7, 5: 7, 8: 9, 9: 9}  # 0 = 2 = 5 (other label) in train, 9 = 8 leaks
    items = [
        Item(
            str(i),
            i % 2,
            "test" if i == 9 else "validation" if i >= 6 and i < 8 else "train",
            lambda i=i: np.full((1, 4, 4), values.get(i, 100 + i), np.uint8),
        )
        for i in range(10)
    ]
    source = Source(kind="x", reference="y", class_names=("a", "b"), items=items)
    facts = prepare(source, tmp_path / "out")
    assert facts["duplicates"] == {
        "count": 2, "other_label": 1, "names": [["2", "0"], ["5", "0"]],
    }  # fmt: skip
    assert facts["leakage"]["test"] == {"count": 1, "other_label": 1, "names": [["9", "8"]]}
    assert facts["leakage"]["validation"]["count"] == 0


def test_test_images_that_are_repeated_or_in_validation_are_found(tmp_path: Path) -> None:
    values = {10: 50, 11: 51, 12: 50, 13: 50, 14: 52, 15: 51}
    splits = dict(enumerate(["train"] * 10 + ["validation"] * 2 + ["test"] * 4))
    items = [
        Item(f"{i:02d}", i % 2, split, lambda i=i: np.full((1, 4, 4), values.get(i, i), np.uint8))
        for i, split in splits.items()
    ]
    source = Source(kind="x", reference="y", class_names=("a", "b"), items=items)
    facts = prepare(source, tmp_path / "out")
    assert facts["test_repeats"] == {
        "validation": {
            "count": 3, "other_label": 1, "names": [["12", "10"], ["13", "10"], ["15", "11"]],
        },
        "test": {"count": 1, "other_label": 1, "names": [["13", "12"]]},
    }  # fmt: skip
    assert not any(finding["count"] for finding in facts["leakage"].values())
    assert not facts["duplicates"]["count"]


def test_survey_sees_gray_pictures_stored_as_rgb() -> None:
    def source(image: Image.Image) -> Source:
        items = [Item(str(i), 0, None, lambda: image) for i in range(3)]
        return Source(kind="x", reference="y", class_names=("a", "b"), items=items)

    gray = Image.new("RGB", (30, 20), (9, 9, 9))
    assert survey(source(gray)).gray and survey(source(gray)).native_size == 20
    gray.putpixel((15, 10), (255, 0, 0))
    assert not survey(source(gray)).gray


def test_survey_of_a_large_dataset_reads_few_images() -> None:
    read: list[int] = []
    items = [
        Item(str(i), 0, None, lambda i=i: read.append(i) or np.zeros((1, 4, 4), np.uint8))
        for i in range(10_000)
    ]
    source = Source(kind="x", reference="y", class_names=("a", "b"), items=items)
    assert survey(source, limit=64).num_read == len(read) == 64
    assert min(read) < 100 and max(read) == 9_999


def test_survey_of_nothing_readable_says_why() -> None:
    source = make_source(4, broken=(0, 1, 2, 3))
    with pytest.raises(DataError, match="none of 4 images .* is cut short"):
        survey(source)


def test_loading_an_empty_folder_names_the_missing_stage(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run the prepare stage"):
        Dataset.load(tmp_path)
