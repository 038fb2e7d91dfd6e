"""The folder around a bundle: a dataset repository with card, manifest and checksums.

`SHA256SUMS` covers every other file, so that `sha256sum -c` or `verify_folder` find any change;
`manifest.json` says by machine what the card says to people. The folder appears whole.
"""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from distillery.bundle.card import card_text
from distillery.bundle.croissant import CROISSANT_NAME, croissant
from distillery.bundle.dataset import DistilledDataset
from distillery.bundle.export import PARQUET_NAME, class_folder, with_new_folder, write_parquet
from distillery.bundle.read import read_bundle
from distillery.bundle.schema import FILE_NAME
from distillery.bundle.write import write_bundle
from distillery.errors import BundleError
from distillery.files import digest_file, json_bytes, read_json, sync_folder

CARD_NAME = "README.md"
MANIFEST_NAME = "manifest.json"
REPORT_NAME = "report.json"
SUMS_NAME = "SHA256SUMS"
MANIFEST_SCHEMA = "distillery-manifest/1"
_OUR_NAMES = {FILE_NAME, PARQUET_NAME, CARD_NAME, CROISSANT_NAME, MANIFEST_NAME, SUMS_NAME}


def write_bundle_folder(
    folder: Path,
    dataset: DistilledDataset,
    *,
    report: dict[str, Any] | None,
    files: Mapping[str, bytes],
) -> None:
    """Write bundle, Parquet, card, Croissant, manifest, checksums and `files` to a new folder.

    Args:
        folder: Must not exist; it appears when everything in it is on the disk.
        dataset: What was distilled.
        report: Content of `report.json`; its config goes into the manifest, its numbers into the
            card. None: no evaluation was made.
        files: Content of further files by their path in the folder, such as `preview.png`.

    Raises:
        BundleError: If `folder` exists.
        ValueError: If a path in `files` leaves the folder or is one that this function writes.
    """
    extra = ({} if report is None else {REPORT_NAME: json_bytes(report)}) | dict(files)
    for name in extra:
        _check_name(name)

    def fill(partial: Path) -> None:
        write_bundle(partial / FILE_NAME, dataset)
        (partial / PARQUET_NAME).parent.mkdir()
        with open(partial / PARQUET_NAME, "wb") as file:
            write_parquet(dataset, file)
        (partial / CARD_NAME).write_text(card_text(dataset, report), encoding="utf-8")
        for name, content in sorted(extra.items()):
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_bytes(content)
        digests = _digests(partial)
        described = croissant(dataset, report, _sized(partial, digests))
        _add(partial / CROISSANT_NAME, json_bytes(described), digests)
        manifest = _manifest(dataset, report, digests, partial)
        _add(partial / MANIFEST_NAME, json_bytes(manifest), digests)
        (partial / SUMS_NAME).write_text(_sums(digests), encoding="utf-8")
        for place in sorted(partial.rglob("*")):
            sync_folder(place)  # files too: all is on the disk before the folder has its name

    with_new_folder(folder, fill)


def _check_name(name: str) -> None:
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name or "\n" in name:
        raise ValueError(f"a file of the folder must have a relative path inside it, got {name!r}")
    if str(path) in _OUR_NAMES:
        raise ValueError(f"{name} is written from the dataset, leave it out of the files")


def _digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file below `folder` by its path."""
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return {path.relative_to(folder).as_posix(): digest_file(path) for path in paths}


def _sized(folder: Path, digests: Mapping[str, str]) -> dict[str, tuple[str, int]]:
    """Return digests with the sizes of their files."""
    return {name: (digest, (folder / name).stat().st_size) for name, digest in digests.items()}


def _add(path: Path, content: bytes, digests: dict[str, str]) -> None:
    """Write a file that speaks of those before it, and its digest beside theirs."""
    path.write_bytes(content)
    digests[path.name] = digest_file(path)


def _sums(digests: Mapping[str, str]) -> str:
    """Return the lines that `sha256sum --check` reads."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))


def _manifest(
    dataset: DistilledDataset,
    report: dict[str, Any] | None,
    digests: Mapping[str, str],
    folder: Path,
) -> dict[str, Any]:
    num_classes = len(dataset.classes)
    return {
        "schema": MANIFEST_SCHEMA,
        "synthetic": dataset.origin == "generated",
        "content_digest": dataset.content_digest,
        "images": {
            "count": len(dataset),
            "per_class": dataset.images_per_class,
            "channels": dataset.images.shape[1],
            "size": dataset.images.shape[-1],
        },
        "classes": [
            {"index": index, "name": name, "folder": class_folder(index, name, num_classes)}
            for index, name in enumerate(dataset.classes)
        ],
        "score_names": list(dataset.score_names),
        "provenance": dict(dataset.metadata),
        "config": (report or {}).get("config"),
        "files": {
            name: {"sha256": digest, "size_bytes": size}
            for name, (digest, size) in _sized(folder, digests).items()
        },
    }


def verify_folder(path: Path) -> list[str]:
    """Return what is wrong with a bundle folder, one sentence each; nothing when it is whole.

    Every file is hashed against `SHA256SUMS`, the bundle is read by the strict reader, and the
    manifest must speak of the same content and files. No file outside the folder is opened.
    """
    if not path.is_dir():
        return [f"{path} is not a folder."]
    findings = [
        f"{place.relative_to(path)} is a link; a bundle folder holds plain files only."
        for place in sorted(path.rglob("*"))
        if place.is_symlink()
    ]
    if findings:
        return findings
    digests = _digests(path)
    findings += _sum_findings(path, digests)
    try:
        dataset = read_bundle(path)
    except BundleError as error:
        return [*findings, f"{error}."]
    return findings + _manifest_findings(path, dataset, digests, are_sums_right=not findings)


def _sum_findings(path: Path, digests: Mapping[str, str]) -> list[str]:
    """Compare the digests of the files that are there with the lines of `SHA256SUMS`."""
    sums = path / SUMS_NAME
    if not sums.is_file():
        return [f"{SUMS_NAME} is missing, so no other file can be checked against it."]
    listed = {}
    for number, line in enumerate(sums.read_text(errors="replace").splitlines(), start=1):
        digest, separator, name = line.partition("  ")
        if not separator or len(digest) != 64:
            return [f"{SUMS_NAME} line {number} is not a SHA-256 and a name."]
        listed[name] = digest
    present = {name: digest for name, digest in digests.items() if name != SUMS_NAME}
    findings = [f"{name} is missing." for name in sorted(listed.keys() - present.keys())]
    findings += [
        f"{name} is not listed in {SUMS_NAME}."
        for name in sorted(present.keys() - listed.keys())
        if not name.startswith(".")  # what file managers and git leave
    ]
    findings += [
        f"{name} was changed: its SHA-256 is {present[name]}, {SUMS_NAME} says {listed[name]}."
        for name in sorted(present.keys() & listed.keys())
        if present[name] != listed[name]
    ]
    return findings


def _manifest_findings(
    path: Path, dataset: DistilledDataset, digests: Mapping[str, str], *, are_sums_right: bool
) -> list[str]:
    """Compare the manifest's claims with the bundle and the files beside it."""
    try:
        manifest = read_json(path / MANIFEST_NAME)
        digest = manifest["content_digest"]
        names = tuple(entry["name"] for entry in manifest["classes"])
        files = {
            str(name): (str(entry["sha256"]), int(entry["size_bytes"]))
            for name, entry in manifest["files"].items()
        }
    except OSError:
        return [f"{MANIFEST_NAME} is missing."]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return [f"{MANIFEST_NAME} is not a manifest of a bundle."]
    findings = []
    if digest != dataset.content_digest:
        findings.append(f"{MANIFEST_NAME} speaks of other tensors than {FILE_NAME} holds.")
    if names != dataset.classes:
        findings.append(f"{MANIFEST_NAME} has another class table than {FILE_NAME}.")
    if are_sums_right:  # else the checksums have told of the files already
        findings += _file_findings(files, _sized(path, digests))
    return findings


def _file_findings(
    listed: Mapping[str, tuple[str, int]], present: Mapping[str, tuple[str, int]]
) -> list[str]:
    """Compare the manifest's digests and sizes with those of the files that are there."""
    findings = [f"{name} is missing." for name in sorted(listed.keys() - present.keys())]
    return findings + [
        f"{name} was changed: {MANIFEST_NAME} says SHA-256 {listed[name][0]} and "
        f"{listed[name][1]} bytes, it has {present[name][0]} and {present[name][1]}."
        for name in sorted(listed.keys() & present.keys())
        if listed[name] != present[name]
    ]
