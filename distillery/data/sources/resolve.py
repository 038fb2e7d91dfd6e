"""From what the user wrote to a `Source`: the one place that knows every kind of dataset."""

from dataclasses import replace
from pathlib import Path

from distillery.data.config import DataConfig
from distillery.data.source import Source
from distillery.data.sources.archive import open_archive
from distillery.data.sources.digits import open_digits
from distillery.data.sources.folder import open_folder
from distillery.data.sources.hub import (
    licence_of,
    open_hub,
    parse_hub_reference,
    refuse_label_column,
)
from distillery.data.sources.idx import idx_folder, is_idx_file, open_idx
from distillery.data.sources.parquet import open_parquet, parquet_files
from distillery.data.sources.tensors import open_tensors
from distillery.errors import ConfigError, DataError

UNDERSTOOD = (
    "'digits', a folder of class folders (with or without train/ and test/), a .zip or .tar "
    "of one, a Parquet file or folder, a folder of MNIST idx files, a .safetensors file with "
    "images and labels, or a Hub id 'org/name'"
)


def open_source(config: DataConfig) -> Source:
    """Return the dataset that `config.dataset` names, opened for reading.

    A path that exists comes before a Hub id of the same spelling.

    Raises:
        DataError: If there is no such dataset, or it cannot be understood.
        ConfigError: If two different revisions are named, or an option would be ignored.
    """
    if config.dataset == "digits":
        _refuse_revision(config)
        refuse_label_column(config)
        return open_digits()
    path = _local(config.dataset)
    if path is None:
        hub = parse_hub_reference(config.dataset, config.revision)
        if hub is None:
            raise _not_found(config.dataset)
        return open_hub(*hub, config)
    _refuse_revision(config)
    try:
        if path.is_dir():
            return replace(_open_folder(path, config), licence=licence_of(path))
        return _open_file(path, config)
    except OSError as error:
        raise DataError(
            f"{path.name!r} cannot be read ({error.strerror}); check its permissions"
        ) from error


def check_reference(config: DataConfig) -> None:
    """Refuse what is neither a file or folder here nor looks like a Hub id; opens nothing.

    Raises:
        DataError: If `open_source` could not find it either.
        ConfigError: If two different revisions are named.
    """
    if config.dataset == "digits" or _local(config.dataset) is not None:
        return
    if parse_hub_reference(config.dataset, config.revision) is None:
        raise _not_found(config.dataset)


def _local(reference: str) -> Path | None:
    """Return the file or folder that a reference names, None where there is none."""
    try:
        path = Path(reference).expanduser().resolve()
        return path if path.is_dir() or path.is_file() else None
    except (OSError, ValueError, RuntimeError):  # too long, a NUL inside, an unknown ~user
        return None


def _not_found(reference: str) -> DataError:
    return DataError(f"no dataset {reference[:200]!r} was found; a dataset is {UNDERSTOOD}")


def _refuse_revision(config: DataConfig) -> None:
    """Raise ConfigError if a revision was named for what is no dataset of the Hub."""
    if config.revision is not None:
        raise ConfigError(
            f"data.revision {config.revision!r} would be ignored, because the dataset is not one "
            "of the Hub: leave it out"
        )


def _open_folder(path: Path, config: DataConfig) -> Source:
    """Tell idx files, Parquet files and class folders apart."""
    idx = idx_folder(path)
    if idx is not None:
        refuse_label_column(config)
        return open_idx(idx, max_pixels=config.max_image_pixels, reference=path.name)
    if parquet_files(path):
        return open_parquet(
            path, max_pixels=config.max_image_pixels, label_column=config.label_column
        )
    refuse_label_column(config)
    return open_folder(path, max_pixels=config.max_image_pixels)


def _open_file(path: Path, config: DataConfig) -> Source:
    """Tell Parquet, safetensors and archives apart."""
    if path.suffix == ".safetensors":
        refuse_label_column(config)
        return open_tensors(path, max_pixels=config.max_image_pixels)
    with open(path, "rb") as file:
        is_parquet = file.read(4) == b"PAR1"
    if is_parquet:
        return open_parquet(
            path, max_pixels=config.max_image_pixels, label_column=config.label_column
        )
    if is_idx_file(path):
        raise DataError(
            f"{path.name!r} is one idx file alone; name the folder that holds the images and "
            "labels files"
        )
    refuse_label_column(config)
    return open_archive(path, max_pixels=config.max_image_pixels)
