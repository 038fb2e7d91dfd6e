"""From the names in a request to places on this machine; no name leaves its folder.

A job's request holds the path of a mounted or uploaded dataset. What is shown to callers holds its
name again (`public_request`): an answer never tells a path of this machine.
"""

import copy
import difflib
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.api.problems import Problem
from app.jobs.datasets import DatasetStore
from app.settings import Settings

BUILTIN = ("digits",)
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,62}")
HUB_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
HUB_ID = re.compile(rf"{HUB_PART}/{HUB_PART}(@[A-Za-z0-9][A-Za-z0-9._/-]{{0,99}})?")
SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".parquet", ".safetensors")
"""Files that may lie among the mounted datasets; they are named without the suffix too."""


@dataclass(frozen=True, slots=True)
class Place:
    """A dataset that exists, or may exist on the Hub."""

    kind: str
    """`builtin`, `upload`, `folder` or `hub`."""
    name: str
    reference: str
    """What `DataConfig.dataset` takes."""


def find_dataset(
    kind: str | None, name: str, *, settings: Settings, uploads: DatasetStore
) -> Place:
    """Return the place of a dataset: built-in, uploaded, mounted, or on the Hub, in this order.

    Args:
        kind: Where to look; None: everywhere.
        name: What the caller wrote.
        settings: Of this process.
        uploads: Names of the uploaded datasets.

    Raises:
        Problem: If there is none; near names are offered.
    """
    if kind in (None, "builtin") and name in BUILTIN:
        return Place("builtin", name, name)
    is_name = NAME.fullmatch(name) is not None
    if kind in (None, "upload") and is_name and (record := uploads.get(name)) is not None:
        return Place("upload", name, record.path)
    if kind in (None, "folder") and is_name and (path := find_mounted(settings, name)):
        return Place("folder", name, str(path))
    if kind in (None, "hub") and is_hub_id(name):
        return Place("hub", name, name)
    known = [*BUILTIN, *(each.name for each in uploads.list()), *mounted(settings)]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    advice = f"; did you mean {near[0]!r}?" if near else (
        "; name one of GET /datasets, or a Hub id 'owner/name'"
    )  # fmt: skip
    detail = f"there is no dataset {name[:80]!r}{advice}"
    errors = [{"pointer": "#/dataset", "code": "dataset_not_found", "detail": detail}]
    raise Problem("dataset_not_found", detail, errors=errors)


def is_hub_id(text: str) -> bool:
    """Say whether a text is a Hub id `owner/name[@revision]`."""
    return HUB_ID.fullmatch(text) is not None and ".." not in text and "--" not in text


def mounted(settings: Settings) -> dict[str, Path]:
    """Return the datasets in the mounted folder by name; links are left out."""
    found: dict[str, Path] = {}
    if settings.datasets is None or not settings.datasets.is_dir():
        return found
    with os.scandir(settings.datasets) as entries:
        for entry in sorted(entries, key=lambda each: each.name):
            name = _mounted_name(entry)
            if name is not None and NAME.fullmatch(name):
                found.setdefault(name, Path(entry.path))
    return found


def find_mounted(settings: Settings, name: str) -> Path | None:
    """Return the path of a mounted dataset, looked up without a listing."""
    if settings.datasets is None or NAME.fullmatch(name) is None:
        return None
    for candidate in (name, *(name + suffix for suffix in SUFFIXES)):
        path = settings.datasets / candidate
        try:
            mode = path.lstat().st_mode
        except OSError:
            continue
        if stat.S_ISDIR(mode) or (stat.S_ISREG(mode) and candidate.endswith(SUFFIXES)):
            return path
    return None


def _mounted_name(entry: os.DirEntry[str]) -> str | None:
    """Return the name of an entry of the mounted folder, None where it is no dataset."""
    if entry.is_dir(follow_symlinks=False):
        return entry.name
    if not entry.is_file(follow_symlinks=False):
        return None
    fitting = [suffix for suffix in SUFFIXES if entry.name.endswith(suffix)]
    return entry.name.removesuffix(max(fitting, key=len)) if fitting else None


def check_still_there(reference: str, settings: Settings) -> None:
    """Refuse to run a job again whose uploaded or mounted dataset is no more.

    Raises:
        Problem: `dataset_not_found`.
    """
    if reference.startswith("/") and not Path(reference).exists():
        name = public_name(reference, settings)
        detail = f"the dataset {name!r} of this job is gone: submit a new job with another one"
        raise Problem("dataset_not_found", detail)


def file_names(name: str) -> tuple[str, ...]:
    """Return the files and folders whose `public_name` a name may be; none for other texts."""
    if name in BUILTIN or NAME.fullmatch(name) is None:
        return ()
    return (name, *(name + suffix for suffix in SUFFIXES))


def public_name(reference: str, settings: Settings) -> str:
    """Return what callers call a dataset or model; a path of this machine becomes its name."""
    if not reference.startswith("/"):
        return reference
    name = Path(reference).name
    fitting = [suffix for suffix in SUFFIXES if name.endswith(suffix)]
    return name.removesuffix(max(fitting, key=len)) if fitting else name


def public_request(values: Mapping[str, Any] | None, settings: Settings) -> dict[str, Any] | None:
    """Return a request or configuration with names in the place of this machine's paths."""
    if values is None:
        return None
    shown = dict(values)
    for part, field in (
        ("data", "dataset"), ("base", "reference"), ("select", "features"), ("label", "teacher")
    ):  # fmt: skip
        value = (shown.get(part) or {}).get(field)
        if isinstance(value, str) and value.startswith("/"):
            shown[part] = copy.copy(shown[part]) | {field: public_name(value, settings)}
    return shown
