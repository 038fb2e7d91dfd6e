"""The folder around a bundle appears whole, and any later change to it is found."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from distillery.bundle import folder as folder_module
from distillery.bundle.dataset import DistilledDataset
from distillery.bundle.export import PARQUET_NAME
from distillery.bundle.folder import verify_folder, write_bundle_folder
from distillery.bundle.read import read_bundle
from distillery.errors import BundleError
from distillery.files import digest_file

pytest.importorskip("pyarrow")

REPORT = {"schema": "distillery-report/1", "config": {"images_per_class": 3, "seed": 0}}


@pytest.fixture
def written(tmp_path: Path, dataset: DistilledDataset) -> Path:
    files = {"preview.png": b"\x89PNG", "report.html": b"<html>", "logs/job.log": b"line\n"}
    write_bundle_folder(tmp_path / "out", dataset, report=REPORT, files=files)
    return tmp_path / "out"


def test_the_folder_holds_everything_and_verifies(written: Path, dataset: DistilledDataset) -> None:
    names = {path.relative_to(written).as_posix() for path in written.rglob("*") if path.is_file()}
    assert names == {
        "README.md",
        "SHA256SUMS",
        "croissant.json",
        "data/train-00000-of-00001.parquet",
        "distilled.safetensors",
        "logs/job.log",
        "manifest.json",
        "preview.png",
        "report.html",
        "report.json",
    }
    assert verify_folder(written) == []
    assert read_bundle(written).content_digest == dataset.content_digest
    assert [path.name for path in written.parent.iterdir()] == ["out"]  # nothing temporary


def test_sha256sum_agrees(written: Path) -> None:
    command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    try:
        result = subprocess.run(command, cwd=written, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("needs the sha256sum command")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count(": OK\n") == 9


def test_the_manifest_says_how_to_make_it_again(written: Path, dataset: DistilledDataset) -> None:
    manifest = json.loads((written / "manifest.json").read_text())
    assert manifest["config"] == REPORT["config"]
    assert [entry["name"] for entry in manifest["classes"]] == list(dataset.classes)
    assert manifest["files"]["preview.png"]["size_bytes"] == 4
    assert manifest["content_digest"] == dataset.content_digest


def test_equal_content_gives_an_equal_folder(
    tmp_path: Path, written: Path, make_dataset: Callable[..., DistilledDataset]
) -> None:
    files = {"preview.png": b"\x89PNG", "report.html": b"<html>", "logs/job.log": b"line\n"}
    write_bundle_folder(tmp_path / "again", make_dataset(), report=REPORT, files=files)
    assert (tmp_path / "again/SHA256SUMS").read_bytes() == (written / "SHA256SUMS").read_bytes()


def change_pixel(folder: Path) -> None:
    content = bytearray((folder / "distilled.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "distilled.safetensors").write_bytes(content)


def make_link(folder: Path) -> None:
    (folder / "passwd").symlink_to("/etc/passwd")


def edit_manifest(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["content_digest"] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps(manifest))


def make_sums_again(folder: Path) -> None:
    """Let the checksums fit whatever is there now."""
    names = [line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text().splitlines()]
    there = [name for name in names if (folder / name).exists()]
    lines = [f"{digest_file(folder / name)}  {name}\n" for name in there]
    (folder / "SHA256SUMS").write_text("".join(lines))


def replace_parquet(folder: Path) -> None:
    (folder / PARQUET_NAME).write_bytes(b"PAR1 of other images")
    make_sums_again(folder)


def remove_parquet(folder: Path) -> None:
    (folder / PARQUET_NAME).unlink()
    make_sums_again(folder)


def drop_files(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = ["preview.png"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    make_sums_again(folder)


@pytest.mark.parametrize(
    ("damage", "findings"),
    [
        (change_pixel, ["distilled.safetensors was changed", "d.safetensors: metadata"]),
        (lambda f: (f / "README.md").unlink(), ["README.md is missing"]),
        (lambda f: (f / "extra.bin").write_bytes(b"x"), ["extra.bin is not listed"]),
        (lambda f: (f / ".DS_Store").write_bytes(b"x"), []),
        (lambda f: (f / "SHA256SUMS").unlink(), ["SHA256SUMS is missing"]),
        (lambda f: (f / "SHA256SUMS").write_text("a\n"), ["line 1 is not a SHA-256 and a name"]),
        (lambda f: (f / "manifest.json").unlink(), ["manifest.json is missing", "is missing"]),
        (lambda f: (f / "manifest.json").write_text("[" * 9), ["was changed", "not a manifest"]),
        (edit_manifest, ["manifest.json was changed", "speaks of other tensors"]),
        (lambda f: (f / "distilled.safetensors").unlink(), ["is missing", "is not a file"]),
        (replace_parquet, [f"{PARQUET_NAME} was changed: manifest.json says SHA-256"]),
        (remove_parquet, [f"{PARQUET_NAME} is missing"]),
        (drop_files, ["manifest.json is not a manifest of a bundle"]),
        (make_link, ["passwd is a link"]),
    ],
)
def test_damage_is_found(
    written: Path, damage: Callable[[Path], object], findings: list[str]
) -> None:
    damage(written)
    found = verify_folder(written)
    assert len(found) == len(findings), found
    for sentence, expected in zip(found, findings, strict=True):
        assert expected in sentence and sentence.endswith(".")


def test_a_folder_that_exists_is_refused(written: Path, dataset: DistilledDataset) -> None:
    with pytest.raises(BundleError, match="exists already"):
        write_bundle_folder(written, dataset, report=None, files={})
    assert verify_folder(written) == []


@pytest.mark.parametrize(
    "name", ["../up.txt", "/etc/x", "a/../../b", "", "README.md", "data/../README.md", "a\nb"]
)
def test_files_stay_inside_and_do_not_replace_ours(
    tmp_path: Path, dataset: DistilledDataset, name: str
) -> None:
    with pytest.raises(ValueError, match="relative path inside|leave it out"):
        write_bundle_folder(tmp_path / "out", dataset, report=None, files={name: b""})
    assert not (tmp_path / "out").exists()


def test_a_failure_in_the_middle_leaves_nothing(
    tmp_path: Path, dataset: DistilledDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(folder_module, "card_text", fail)
    with pytest.raises(KeyboardInterrupt):
        write_bundle_folder(tmp_path / "out", dataset, report=None, files={})
    assert list(tmp_path.iterdir()) == []
