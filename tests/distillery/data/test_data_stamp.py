"""A dataset that has changed on the disk is told from the one that was read."""

import os
from pathlib import Path

import pytest

from distillery.data.sources.stamp import source_stamp


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("a/1.png", "b/1.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True)
        (tmp_path / "photos" / name).write_bytes(b"x")
    return tmp_path / "photos"


def test_the_stamp_stays_until_a_file_comes_goes_or_changes(photos: Path) -> None:
    stamps = [source_stamp(str(photos))]
    assert stamps[0] is not None and source_stamp(str(photos)) == stamps[0]
    (photos / "a" / "2.png").write_bytes(b"y")
    stamps.append(source_stamp(str(photos)))
    (photos / "a" / "2.png").rename(photos / "b" / "2.png")
    stamps.append(source_stamp(str(photos)))
    (photos / "b" / "2.png").write_bytes(b"zz")
    stamps.append(source_stamp(str(photos)))
    os.utime(photos / "b" / "2.png", (1, 1))  # same size, written at another time
    stamps.append(source_stamp(str(photos)))
    (photos / "b" / "2.png").unlink()
    assert len(set(stamps)) == 5
    assert source_stamp(str(photos)) == stamps[0]


def test_names_that_are_no_utf8_are_stamped_too(photos: Path) -> None:
    os.rename(photos / "a" / "1.png", os.fsencode(photos / "a") + b"/\xff.png")
    odd = source_stamp(str(photos))
    os.rename(os.fsencode(photos / "a") + b"/\xff.png", os.fsencode(photos / "a") + b"/\xfe.png")
    assert odd is not None and source_stamp(str(photos)) != odd


def test_a_file_put_back_with_its_old_size_and_time_is_another_one(photos: Path) -> None:
    file = photos / "a" / "1.png"
    stamp, before = source_stamp(str(photos)), file.stat()
    file.write_bytes(b"y")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_mtime_ns == before.st_mtime_ns and source_stamp(str(photos)) != stamp


def test_where_the_folder_lies_and_hidden_files_do_not_count(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamp = source_stamp(str(photos))
    (photos / ".DS_Store").touch()
    (photos / ".git").mkdir()
    (photos / ".git" / "x").touch()
    assert source_stamp(str(photos)) == stamp
    moved = photos.rename(photos.parent / "pictures")
    assert source_stamp(str(moved)) == stamp
    monkeypatch.chdir(moved.parent)
    assert source_stamp("pictures") == stamp


def test_one_file_is_a_dataset_too(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"1")
    first = source_stamp(str(tmp_path / "x.zip"))
    (tmp_path / "x.zip").write_bytes(b"22")
    assert None is not first != source_stamp(str(tmp_path / "x.zip"))


def test_links_that_lead_nowhere_are_part_of_the_listing(photos: Path) -> None:
    stamp = source_stamp(str(photos))
    (photos / "a" / "lost.png").symlink_to(photos / "nowhere")
    assert source_stamp(str(photos)) != stamp


@pytest.mark.parametrize("name", ["digits", "org/name", "no/such/folder", "x" * 5000, "a\0b"])
def test_what_is_no_path_has_no_stamp(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()  # the built-in comes first, as when it is opened
    assert source_stamp(name) is None
