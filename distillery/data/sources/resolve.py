"""From what the user wrote to a `Source`: the one place that knows every kind of dataset."""

from pathlib import Path

from distillery.data.config import DataConfig
from distillery.data.source import Source
from distillery.data.sources.archive import open_archive
from distillery.data.sources.digits import open_digits
from distillery.data.sources.folder import open_folder
from distillery.errors import DataError

UNDERSTOOD = (
    "'digits', a folder of class folders (with or without train/ and test/), a .zip or .tar "
    "of one, a Parquet file or folder, a folder of MNIST idx files, a .safetensors file with "
    "images and labels, or a Hub id 'org/name'"
)


def open_source(config: DataConfig) -> Source:
    """Return the dataset that `config.dataset` names, opened for reading.

    Raises:
        DataError: If there is no such dataset, or it cannot be understood.
    """
    if config.dataset == "digits":
        return open_digits()
    path = Path(config.dataset).expanduser()
    if path.is_dir():
        return open_folder(path, max_pixels=config.max_image_pixels)
    if path.is_file():
        return open_archive(path, max_pixels=config.max_image_pixels)
    raise DataError(f"no dataset {config.dataset!r} was found; a dataset is {UNDERSTOOD}")
