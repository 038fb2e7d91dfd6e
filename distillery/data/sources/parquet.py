"""Parquet files in the layout of Hugging Face image datasets.

An image column of structs {bytes, path} (or of bytes) and a label column; the class names stand in
the schema metadata under "huggingface". Only labels are read at once; image bytes come one row
group at a time, which suits items in the order of their rows.
"""

import os
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distillery.data.decode import MAX_FILE_BYTES, open_image
from distillery.data.source import Item, Readable, Source, Split
from distillery.data.sources.layout import SPLIT_NAMES, is_hidden
from distillery.data.sources.parquet_schema import Columns, columns_of, label_table
from distillery.errors import DataError
from distillery.wording import counted, were

if TYPE_CHECKING:
    import pyarrow as pa

CACHE_BYTES = 512 * 1024 * 1024
MAX_GROUP_BYTES = 4 * 1024**3
SPLIT_PATTERN = re.compile(rf"(?:^|[-_.])({'|'.join(SPLIT_NAMES)})(?:$|[-_.])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Shard:
    """One file."""

    path: Path
    name: str
    split: Split | None
    columns: Columns
    labels: list[Any]
    group_ends: np.ndarray
    """Number of rows up to the end of each row group."""


def open_parquet(
    path: Path,
    *,
    max_pixels: int,
    label_column: str | None = None,
    reference: str | None = None,
    boundary: Path | None = None,
) -> Source:
    """Return the rows of a Parquet file, or of all Parquet files in a folder.

    Args:
        path: File or folder. File names such as `train-00000-of-00001.parquet`, or folders such
            as `train/`, give the split.
        max_pixels: Larger images fail when they are read.
        label_column: Column with the class; None: found by type or name.
        reference: Name of the dataset; None: the name of the file or folder.
        boundary: Folder that links may lead into; None: `path` itself.

    Raises:
        DataError: If files cannot be read, columns cannot be told or do not agree.
    """
    reference = reference or path.name
    splits, notes = _files(path, reference, boundary)
    shards = [
        _read_shard(file, name, split, label_column) for (name, file), split in splits.items()
    ]
    _check_agreement(shards)
    values = [value for shard in shards for value in shard.labels]
    names, label_of = label_table(values, shards[0].columns)
    cache = _GroupCache()
    items = []
    for shard in shards:
        for row, value in enumerate(shard.labels):
            label = label_of.get(value)
            if label is not None:
                read = partial(_read, cache, shard, row, max_pixels)
                items.append(Item(f"{shard.name}:{row:09d}", label, shard.split, read))
    unlabelled = len(values) - len(items)
    if unlabelled:
        what = f"{counted(unlabelled, 'row')} without a label"
        notes = (*notes, f"{what} {were(unlabelled)} left out")
    return Source(
        kind="parquet", reference=reference, class_names=names,
        items=sorted(items, key=lambda item: item.name), notes=notes,
    )  # fmt: skip


def parquet_files(folder: Path, boundary: Path | None = None) -> list[Path]:
    """Return the Parquet files below a folder, sorted, without hidden ones and image metadata.

    Args:
        folder: Where to look.
        boundary: Folder that links may lead into; None: `folder` itself.

    Raises:
        DataError: If a link leads elsewhere.
    """
    inside = (boundary or folder).resolve()
    found = []
    for parent, subfolders, files in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not is_hidden([name])]
        for name in files:
            path = Path(parent, name)
            if not name.endswith(".parquet") or name == "metadata.parquet" or is_hidden([name]):
                continue
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                raise DataError(
                    f"the link {name!r} leads out of the dataset's folder; copy the file itself"
                )
            if path.is_file():
                found.append(path)
    return sorted(found)


def configurations(folder: Path, files: Sequence[Path]) -> list[str]:
    """Return the folders below `folder`, "." among them, that each hold a dataset of their own.

    Args:
        folder: Where they were looked for.
        files: What `parquet_files` found there.
    """
    return sorted({_without_split("/".join(p.relative_to(folder).parts)) for p in files})


def split_of(parts: Sequence[str]) -> Split | None:
    """Return the split that a file's name (or else its folder's name) gives."""
    match = SPLIT_PATTERN.search(Path(parts[-1]).stem)
    if match:
        return SPLIT_NAMES[match[1].lower()]
    return SPLIT_NAMES.get(parts[-2].lower()) if len(parts) > 1 else None


def _files(
    path: Path, reference: str, boundary: Path | None
) -> tuple[dict[tuple[str, Path], Split | None], tuple[str, ...]]:
    """Return the split of each (name, file) to read, and notes."""
    if path.is_file():
        return {(path.name, path): None}, ()
    found = parquet_files(path, boundary)
    files = {("/".join(p.relative_to(path).parts), p): split_of(p.relative_to(path).parts)
             for p in found}  # fmt: skip
    folders = configurations(path, found)
    if len(folders) > 1:
        below = next(name for name in folders if name != ".")
        raise DataError(
            f"{reference!r} holds several datasets, in the folders {folders}; name one of these "
            f"folders by its path, which ends in '{reference}/{below}'"
        )
    if len(set(files.values())) > 1 and None in files.values():
        left_out = sorted(name for (name, _), split in files.items() if split is None)
        files = {key: split for key, split in files.items() if split is not None}
        what = f"{counted(len(left_out), 'file')} of no known split"
        return files, (f"{what} {were(len(left_out))} left out: {left_out[0]!r}",)
    return files, ()


def _without_split(name: str) -> str:
    """Return the folder of a file, without a last folder that only names the split."""
    folders = name.split("/")[:-1]
    if folders and folders[-1].lower() in SPLIT_NAMES:
        folders = folders[:-1]
    return "/".join(folders) or "."


def _read_shard(path: Path, name: str, split: Split | None, label_column: str | None) -> _Shard:
    """Read schema and labels of a file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            columns = columns_of(file.schema_arrow, label_column, name)
            groups = [file.metadata.row_group(g) for g in range(file.num_row_groups)]
            largest = max((group.total_byte_size for group in groups), default=0)
            if largest > MAX_GROUP_BYTES:
                raise DataError(
                    f"{name!r} has a row group of {largest} bytes, more than the "
                    f"{MAX_GROUP_BYTES} that are read at once; write it with smaller row groups"
                )
            labels = file.read(columns=[columns.label]).column(0).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:  # also names that are no UTF-8
        raise DataError(
            f"{name!r} is no usable Parquet file ({error}); it may be cut short, fetch it again"
        ) from error
    ends = np.cumsum([group.num_rows for group in groups])
    return _Shard(path, name, split, columns, labels, ends)


def _check_agreement(shards: list[_Shard]) -> None:
    """Refuse files with other columns or class names than the first."""
    for shard in shards:
        if shard.columns != shards[0].columns:
            raise DataError(
                f"{shard.name!r} has other columns or class names than {shards[0].name!r}; "
                "put only the files of one dataset into the folder"
            )


class _GroupCache:
    """The row groups read last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._groups: OrderedDict[tuple[Path, int], pa.ChunkedArray] = OrderedDict()

    def value(self, shard: _Shard, group: int, row: int) -> Any:
        """Return the image cell of a row of a row group."""
        key = (shard.path, group)
        with self._lock:
            if key not in self._groups:
                self._groups[key] = _read_group(shard, group)
                while len(self._groups) > 2 and self._size() > CACHE_BYTES:
                    self._groups.popitem(last=False)
            self._groups.move_to_end(key)
            cells = self._groups[key]
        return cells[row].as_py()

    def _size(self) -> int:
        return sum(cells.nbytes for cells in self._groups.values())


def _read_group(shard: _Shard, group: int) -> "pa.ChunkedArray":
    import pyarrow.parquet as pq

    with pq.ParquetFile(shard.path) as file:
        return file.read_row_group(group, columns=[shard.columns.image_bytes]).column(0)


def _read(cache: _GroupCache, shard: _Shard, row: int, max_pixels: int) -> Readable:
    """Open the image of one row."""
    group = int(np.searchsorted(shard.group_ends, row, side="right"))
    start = int(shard.group_ends[group - 1]) if group else 0
    cell = cache.value(shard, group, row - start)
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if content is None:
        raise ValueError("has no image bytes in its row")
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"has {len(content)} bytes, more than the {MAX_FILE_BYTES} allowed")
    return open_image(content, max_pixels=max_pixels)
