"""Folders of class folders: which paths become which class and split."""

import os
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from distillery.data.config import DataConfig
from distillery.data.source import check_class_names, class_table, clean_text, natural_key
from distillery.data.sources.folder import open_folder
from distillery.data.sources.layout import Entry, arrange
from distillery.data.sources.resolve import check_reference, open_source
from distillery.errors import DataError


def arranged(*paths: str) -> tuple[tuple[str, ...], dict[str, tuple[str, str | None]], tuple]:
    """Class names, {item: (class, split)} and notes for these paths."""
    entries = [Entry(tuple(path.split("/")), lambda: None) for path in paths]
    names, items, notes = arrange(entries, "toy")
    return names, {i.name: (names[i.label], i.split) for i in items}, notes


def make_tree(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 6), (len(path), 0, 0)).save(root / path, "PNG")
    return root


def test_one_folder_per_class() -> None:
    names, items, notes = arranged("dog/b.png", "cat/a.png", "cat/deep/er/c.png")
    assert names == ("cat", "dog") and not notes
    assert items == {
        "cat/a.png": ("cat", None), "cat/deep/er/c.png": ("cat", None), "dog/b.png": ("dog", None),
    }  # fmt: skip


@pytest.mark.parametrize("validation", ["val", "valid", "validation", "VAL"])
def test_split_folders(validation: str) -> None:
    names, items, _ = arranged("train/a/1.png", f"{validation}/b/1.png", "test/a/2.png")
    assert names == ("a", "b")
    assert items["train/a/1.png"] == ("a", "train")
    assert items[f"{validation}/b/1.png"] == ("b", "validation")
    assert items["test/a/2.png"] == ("a", "test")


def test_wrapping_folders_are_passed_through() -> None:
    plain = arranged("a/1.png", "b/2.png")
    assert arranged("top/a/1.png", "top/b/2.png") == plain
    assert arranged("x/train/a/1.png", "x/train/b/2.png") == plain  # one split alone is none
    names, items, notes = arranged("top/a/1.png", "top/b/2.png", "top/b/3.png", "top/cover.png")
    assert names == ("a", "b") and "top/cover.png" not in items
    assert notes == ("1 image outside of any class folder was left out",)


def test_a_class_may_be_called_train() -> None:
    names, _, _ = arranged("train/1.png", "car/2.png")
    assert names == ("car", "train")
    assert arranged("train/1.png", "test/2.png")[0] == ("test", "train")  # no class folders inside
    assert arranged("train/x/1.png", "ship/y/2.png")[0] == ("ship", "train")


def test_a_flat_test_folder_beside_train_is_left_out_with_a_note() -> None:
    """The usual download of a competition: labelled train folders, test images without labels."""
    names, items, notes = arranged(
        "train/a/1.png", "train/b/2.png", "test/3.png", "test/4.png", "cover.png"
    )
    assert names == ("a", "b") and set(items) == {"train/a/1.png", "train/b/2.png"}
    assert "'test' has no class folders, so its 2 images were left out" in notes
    assert "1 image outside of any class folder was left out" in notes


def test_splits_beside_other_folders_or_without_train_are_refused() -> None:
    splits = ("train/a/1.png", "train/b/2.png", "test/a/3.png", "test/b/4.png")
    with pytest.raises(DataError, match="'test' in 'toy' looks like a split .* 'docs' beside it"):
        arranged(*splits, "docs/figure.png")
    with pytest.raises(DataError, match="no 'train' with class folders"):
        arranged(*splits[2:], "train/5.png")


def test_images_without_class_folders_are_explained() -> None:
    with pytest.raises(DataError, match="without class folders"):
        arranged("1.png", "2.png")
    with pytest.raises(DataError, match=r"two classes or more, it has 1 \('cat'\)"):
        arranged("cat/1.png", "cat/2.png")
    with pytest.raises(DataError, match="no image at all"):
        arranged()


def test_numbers_count_by_value_and_any_script_is_sorted() -> None:
    assert class_table(["10", "2", "1"]) == ("1", "2", "10")
    assert class_table(["a10", "a9", "b1", "3", "a"]) == ("3", "a", "a9", "a10", "b1")
    assert class_table(["кот", "猫", "cat", "γάτα", "قط", "٣"]) == (
        "cat", "γάτα", "кот", "قط", "٣", "猫",
    )  # fmt: skip
    assert natural_key("007") != natural_key("7")  # distinct names never tie


def test_accents_are_the_same_however_the_system_writes_them() -> None:
    composed, split_up = "caf\u00e9", unicodedata.normalize("NFD", "caf\u00e9")
    names, items, _ = arranged(f"train/{composed}/1.png", f"test/{split_up}/2.png", "train/b/3.png")
    assert names == ("b", "café")
    assert items["test/café/2.png"] == ("café", "test")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "  "], "1 to 255 characters"),
        (["a", "b" * 256], "1 to 255 characters"),
        (["a", "1" * 10_000], "1 to 255 characters"),  # and no giant integer is made of it
        (["a", "b\nc"], "control characters"),
        (["a", "a"], "twice"),
    ],
)
def test_unusable_class_names(names: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_class_names(names)


def test_names_that_are_no_utf8_become_text_that_json_can_hold(tmp_path: Path) -> None:
    assert clean_text("caf\udce9") == "caf\\xe9"
    assert clean_text("\ud83d").isascii()
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    try:
        os.mkdir(folder)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    Image.new("L", (4, 4)).save(folder + b"/1.png", "PNG")
    make_tree(tmp_path, "b/1.png")
    source = open_folder(tmp_path, max_pixels=100)
    assert source.class_names == ("b", "caf\\xe9")
    assert all(item.read() and item.name.encode() for item in source.items)


def test_a_folder_on_disk(tmp_path: Path) -> None:
    make_tree(tmp_path, "猫/1.PNG", "犬/2.jpeg", "犬/.hidden.png", "__MACOSX/犬/2.png")
    (tmp_path / "犬" / "notes.txt").write_text("no image")
    (tmp_path / "bird").mkdir()
    source = open_folder(tmp_path, max_pixels=100)
    assert source.class_names == ("犬", "猫")
    assert [item.name for item in source.items] == ["犬/2.jpeg", "猫/1.PNG"]
    assert source.items[0].read().size == (6, 6)
    assert source.notes == ("1 folder without images was left out: 'bird'",)
    assert source.reference == tmp_path.name  # folders above are nobody's business


def test_folders_that_somebody_may_miss_are_noted(tmp_path: Path) -> None:
    composed, apart = "caf\u00e9", "cafe\u0301"
    make_tree(tmp_path, f"{composed}/1.png", f"{apart}/2.png", "b/1.png", ".old/1.png")
    (tmp_path / ".git").mkdir()
    if len(list(tmp_path.iterdir())) < 5:
        pytest.skip("this file system knows one Unicode form only")
    source = open_folder(tmp_path, max_pixels=100)
    assert source.class_names == ("b", composed) and len(source.items) == 3
    assert source.notes == (
        "1 hidden folder with images was left out: '.old'",
        f"2 folders named {composed!r}, in different Unicode forms, are taken as one class",
    )


def test_links_may_not_lead_out(tmp_path: Path) -> None:
    secret = make_tree(tmp_path, "elsewhere/secret.png") / "elsewhere"
    root = make_tree(tmp_path / "data", "a/1.png", "b/2.png")
    (root / "a" / "again.png").symlink_to(root / "b" / "2.png")
    assert len(open_folder(root, max_pixels=100).items) == 3  # inside is fine
    (root / "a" / "out.png").symlink_to(secret / "secret.png")
    with pytest.raises(DataError, match="'out.png' leads out"):
        open_folder(root, max_pixels=100)
    (root / "a" / "out.png").unlink()
    (root / "c").symlink_to(secret)
    with pytest.raises(DataError, match="'c' is a link"):
        open_folder(root, max_pixels=100)


def test_a_pipe_named_like_an_image_does_not_block(tmp_path: Path) -> None:
    root = make_tree(tmp_path, "a/1.png", "b/2.png")
    os.mkfifo(root / "b" / "pipe.png")
    pipe = next(i for i in open_folder(root, max_pixels=100).items if "pipe" in i.name)
    with pytest.raises(ValueError, match="regular file"):
        pipe.read()


@pytest.mark.parametrize(
    "reference", ["no-such-thing", "../no/such/path", "a\0b", "x" * 5000, "~nobody-here/x", "a/b/c"]
)
def test_an_unknown_reference_lists_what_is_understood(reference: str) -> None:
    with pytest.raises(DataError, match="a dataset is 'digits', a folder of class folders"):
        open_source(DataConfig(dataset=reference))
    with pytest.raises(DataError, match="a dataset is 'digits', a folder of class folders"):
        check_reference(DataConfig(dataset=reference))


def test_a_reference_that_may_be_one_passes_the_first_look(tmp_path: Path) -> None:
    for reference in ("digits", str(tmp_path), "org/name", "org/name@main"):
        check_reference(DataConfig(dataset=reference))  # what is there or not, nothing is opened


def test_an_empty_folder_is_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found no image at all"):
        open_source(DataConfig(dataset=str(tmp_path)))


def test_a_file_that_may_not_be_read_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("distillery.data.sources.resolve.open_archive", refuse)
    (tmp_path / "x.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"'x.zip' cannot be read \(Permission denied\)"):
        open_source(DataConfig(dataset=str(tmp_path / "x.zip")))
