"""Archives: the same dataset as the folder; hostile ones are refused or their files named."""

import gzip
import io
import os
import stat
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from distillery.data.config import DataConfig
from distillery.data.prepare import prepare_dataset
from distillery.data.source import Source
from distillery.data.sources.archive import open_archive
from distillery.data.sources.folder import open_folder
from distillery.data.sources.members import Limits
from distillery.data.sources.resolve import open_source
from distillery.errors import DataError


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 6), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


FILES = {f"top/{name}/{i}.png": png(20 * i + len(name)) for name in ("猫", "dog") for i in range(6)}


KINDS = ("", "gz", "xz", "bz2")


def make_zip(path: Path, files=FILES, **options) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def make_tar(path: Path, files=FILES, mode: str = "w", extra: list = ()) -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in extra:
            archive.addfile(info)
    return path


def prepared(source: Source, folder: Path) -> dict:
    folder.mkdir()
    config = DataConfig(min_images_per_class=2)
    with source:
        return prepare_dataset(source, config=config, image_size=6, channels=3, folder=folder)


def opened(path: Path, **options) -> Source:
    return open_archive(path, max_pixels=1000, **options)


def test_every_kind_of_archive_is_the_same_dataset_as_the_folder(tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / "plain" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "plain" / name).write_bytes(content)
    paths = [make_zip(tmp_path / "a.zip"), make_zip(tmp_path / "b.zip", compression=8)]
    paths += [
        make_tar(tmp_path / f"c.{k or 'tar'}", mode=f"w:{k}") for k in ("", "gz", "xz", "bz2")
    ]
    folder = open_folder(tmp_path / "plain", max_pixels=1000)
    assert folder.class_names == ("dog", "猫")
    expected = prepared(folder, tmp_path / "out")["fingerprint"]
    for number, path in enumerate(paths):
        source = open_source(DataConfig(dataset=str(path)))
        assert source.kind == "archive" and source.reference == path.name
        facts = prepared(source, tmp_path / str(number))
        assert facts["fingerprint"] == expected and not facts["bad_files"], path.name


@pytest.mark.parametrize(
    "name", ["../evil.png", "a/../../evil.png", "/etc/evil.png", "C:\\evil.png", "..\\evil.png"]
)
def test_names_that_point_out_are_refused(tmp_path: Path, name: str) -> None:
    files = {**FILES, name: png(1)}
    for path in (make_zip(tmp_path / "a.zip", files), make_tar(tmp_path / "a.tar", files)):
        with pytest.raises(DataError, match="points out of the archive"):
            opened(path)


def test_links_and_special_files_are_refused(tmp_path: Path) -> None:
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
        info = tarfile.TarInfo("top/dog/9.png")
        info.type, info.linkname = kind, "/etc/passwd"
        with pytest.raises(DataError, match="link or special file"):
            opened(make_tar(tmp_path / "a.tar", extra=[info]))
    link = zipfile.ZipInfo("top/dog/9.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(make_zip(tmp_path / "a.zip"), "a") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match="link or special file"):
        opened(tmp_path / "a.zip")


def test_sparse_tar_members_are_refused(tmp_path: Path) -> None:
    # a pax header that makes an empty member claim a terabyte
    info = tarfile.TarInfo("top/dog/9.png")
    info.pax_headers = {
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(2**40),
        "GNU.sparse.name": "top/dog/9.png",
    }  # fmt: skip
    content = b"0\n".ljust(512, b"\0")
    info.size = len(content)
    with tarfile.open(make_tar(tmp_path / "a.tar"), "a", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info, io.BytesIO(content))
    with pytest.raises(DataError, match="special file"):
        opened(tmp_path / "a.tar")


def test_bombs_are_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    files = {**FILES, "top/dog/zeros.bmp": bytes(3_000_000)}
    limits = Limits(always_allowed_bytes=1_000_000)
    paths = [make_zip(tmp_path / "a.zip", files, compression=8)]
    paths += [make_tar(tmp_path / f"a.{kind}", files, f"w:{kind}") for kind in KINDS[1:]]
    for path in paths:
        assert os.path.getsize(path) < 15_000
        with pytest.raises(DataError, match="expands to"):
            opened(path, limits=limits)
    with pytest.raises(DataError, match="expands to"):
        opened(paths[0], limits=Limits(max_total_bytes=2_000_000))
    for path in paths[:2]:
        with pytest.raises(DataError, match="more than 12 members"):
            opened(path, limits=Limits(max_members=12))


def test_overlapping_members_are_refused(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"dog/1.png": png(1) + bytes(5000), "cat/1.png": png(2)})
    content = bytearray(path.read_bytes())
    directory = content.index(b"PK\x01\x02")
    entry = content[directory : content.index(b"PK\x01\x02", directory + 4)]
    end = content.index(b"PK\x05\x06")
    copies = b"".join(
        bytes(entry).replace(b"dog/1.png", f"dog/{i}.png".encode()) for i in range(2, 9)
    )
    tail = content[end:]
    count = 2 + 7
    struct.pack_into("<HHL", tail, 8, count, count, end - directory + len(copies))
    path.write_bytes(bytes(content[:end]) + copies + bytes(tail))
    assert len(zipfile.ZipFile(path).infolist()) == count
    with pytest.raises(DataError, match="overlap"):
        opened(path)


def test_a_lying_size_makes_a_bad_file_not_a_bad_archive(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", compression=8)
    content = bytearray(path.read_bytes())
    for lie, first in ((10, 0), (10**6, 1)):  # too small, too large
        position = -1
        for _ in range(first + 1):
            position = content.index(b"PK\x01\x02", position + 1)
        struct.pack_into("<L", content, position + 24, lie)
    path.write_bytes(content)
    facts = prepared(opened(path), tmp_path / "out")
    assert [bad["name"] for bad in facts["bad_files"]] == ["猫/0.png", "猫/1.png"]


def test_a_local_header_that_disagrees_makes_a_bad_file(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip")
    content = path.read_bytes().replace(b"top/dog/3.png", b"top/cat/3.png", 1)  # the local one
    path.write_bytes(content)
    facts = prepared(opened(path), tmp_path / "out")
    assert [bad["name"] for bad in facts["bad_files"]] == ["dog/3.png"]


def test_changed_bytes_are_noticed(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {**FILES, "top/dog/7.bmp": b"BM" + bytes(100) + b"mark"})
    path.write_bytes(path.read_bytes().replace(b"mark", b"kram"))
    facts = prepared(opened(path), tmp_path / "out")
    assert "CRC" in facts["bad_files"][0]["reason"]


def test_encrypted_zips_and_double_names_are_explained(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip")
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="encrypted"):
        opened(path)
    twice = make_zip(tmp_path / "b.zip", {**FILES, "top\\dog\\3.png": png(9)})
    with pytest.raises(DataError, match="twice"):
        opened(twice)
    content = bytearray(make_zip(tmp_path / "c.zip").read_bytes())
    struct.pack_into("<H", content, content.index(b"PK\x01\x02") + 10, 9)  # deflate64
    (tmp_path / "c.zip").write_bytes(content)
    with pytest.raises(DataError, match="compression method 9"):
        opened(tmp_path / "c.zip")


def test_a_member_without_a_name_is_passed_over(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip")
    content = bytearray(path.read_bytes())
    # the name's length becomes 0 and the name an extra field of unknown kind
    struct.pack_into("<HH", content, content.index(b"PK\x01\x02") + 28, 0, 0)
    first = content.index(b"PK\x01\x02")
    name_length = content.index(b"PK\x01\x02", first + 4) - first - 46
    del content[first + 46 : first + 46 + name_length]
    end = content.index(b"PK\x05\x06")
    struct.pack_into("<L", content, end + 12, end - first)
    path.write_bytes(content)
    with opened(path) as source:
        assert len(source.items) == len(FILES) - 1


def test_a_zip_with_an_absurd_directory_is_not_listed(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip")
    content = bytearray(path.read_bytes())
    struct.pack_into("<L", content, content.index(b"PK\x05\x06") + 12, 2**31)
    path.write_bytes(content)
    with pytest.raises(DataError, match="directory of 'a.zip' has 2147483648 bytes"):
        opened(path)


def test_names_written_by_other_systems(tmp_path: Path) -> None:
    # macOS writes UTF-8 without the flag, Windows backslashes; leftovers of both are passed over
    files = {f"top/XXX/{i}.png": png(i) for i in range(3)} | {
        "top\\dog\\1.png": png(5),
        "__MACOSX/top/dog/._1.png": b"resource fork",
        "top/dog/.DS_Store": b"",
        "top/bird/": b"",
    }
    path = make_zip(tmp_path / "a.zip", files)
    path.write_bytes(path.read_bytes().replace(b"XXX", "猫".encode()))
    with opened(path) as source:
        assert source.class_names == ("dog", "猫")
        assert [item.name for item in source.items] == [
            "dog/1.png", "猫/0.png", "猫/1.png", "猫/2.png",
        ]  # fmt: skip
        assert source.items[0].read().size == (6, 6)
        assert source.notes == ("1 folder without images was left out: 'bird'",)


def test_truncated_archives_are_refused(tmp_path: Path) -> None:
    big = {f"{c}/{i}.png": os.urandom(2000) for c in "ab" for i in range(5)}
    paths = [make_zip(tmp_path / "a.zip", big)]
    paths += [
        make_tar(tmp_path / f"a.{k or 'tar'}", big, f"w:{k}") for k in ("", "gz", "xz", "bz2")
    ]
    for path in paths:
        content = path.read_bytes()
        for length in (len(content) // 2, 600, 5120, 5632):  # also at the edge of a member
            path.write_bytes(content[:length])
            with pytest.raises(DataError, match="cut short|no image at all"):
                opened(path)


def test_a_damaged_header_in_the_middle_of_a_tar_is_noticed(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", {f"{c}/{i}.png": png(i) for c in "ab" for i in range(4)})
    content = bytearray(path.read_bytes())
    content[1024 * 3 + 148] ^= 0xFF  # checksum of the fourth member
    path.write_bytes(content)
    with pytest.raises(DataError, match="no end marker"):
        opened(path)


def test_a_huge_or_nested_pax_header_is_refused(tmp_path: Path) -> None:
    def header(kind: bytes, size: int) -> bytes:
        info = tarfile.TarInfo("x")
        info.type, info.size = kind, size
        return info.tobuf(tarfile.USTAR_FORMAT)

    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(header(tarfile.XHDTYPE, 5_000_000) + bytes(5_000_000)))
    with pytest.raises(DataError, match="header record"):
        opened(path)
    record = b"13 path=abcd\n".ljust(512, b"\0")
    path.write_bytes(gzip.compress((header(tarfile.XHDTYPE, 13) + record) * 3000))
    with pytest.raises(DataError, match="no usable tar file"):
        opened(path)


def test_other_files_are_no_archives(tmp_path: Path) -> None:
    for content in (b"", b"hello", b"\x28\xb5\x2f\xfd" + bytes(600)):
        (tmp_path / "x.zip").write_bytes(content)
        with pytest.raises(DataError, match="starts like none of them"):
            opened(tmp_path / "x.zip")
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"no tar inside"))
    with pytest.raises(DataError, match="no usable tar file"):
        opened(tmp_path / "x.gz")
    (tmp_path / "x.zip").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(DataError, match="without its directory"):
        opened(tmp_path / "x.zip")


def test_oversized_members_are_bad_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distillery.data.sources.archive.MAX_FILE_BYTES", 100)
    path = make_zip(tmp_path / "a.zip", {**FILES, "top/dog/7.bmp": bytes(101)})
    with opened(path) as source:
        big = next(item for item in source.items if item.name == "dog/7.bmp")
        with pytest.raises(ValueError, match="101 bytes, more than the 100"):
            big.read()


def test_imagenette_from_the_zip(shared_data: Path) -> None:
    with open_source(DataConfig(dataset=str(shared_data / "imagenette2-128-600.zip"))) as source:
        assert len(source.class_names) == 10 and len(source.items) == 6000 + 3925
        assert {item.split for item in source.items} == {"train", "validation"}
        modes = {source.items[i].read().mode for i in range(0, len(source.items), 50)}
    assert "RGB" in modes
