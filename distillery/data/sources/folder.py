"""A folder of class folders, with or without splits (see `layout`).

Links may not lead out of the folder: a dataset that someone else has put together must not make
us read files that are no part of it.
"""

import os
from functools import partial
from pathlib import Path

from distillery.data.decode import MAX_FILE_BYTES, open_image
from distillery.data.source import Readable, Source
from distillery.data.sources.layout import Entry, arrange, is_hidden, is_image_name
from distillery.errors import DataError


def open_folder(
    root: Path, *, max_pixels: int, reference: str | None = None, boundary: Path | None = None
) -> Source:
    """Return the images in the class folders below `root`.

    Args:
        root: The folder.
        max_pixels: Larger images fail when they are read.
        reference: Name of the dataset; None: the folder's own name.
        boundary: Folder that file links may lead into; None: `root` itself.

    Raises:
        DataError: If there are no class folders with images, or a link leads elsewhere.
    """
    root = root.resolve()
    reference = reference or root.name
    inside = (boundary or root).resolve()
    files, folders = image_files(root, inside)
    hidden = [folder.name for folder in sorted(root.iterdir()) if _is_hidden_class(folder)]
    entries = [
        Entry(path.relative_to(root).parts, partial(_read, path, max_pixels)) for path in files
    ]
    paths = (folder.relative_to(root).parts for folder in folders)
    names, items, notes = arrange(entries, reference, paths, hidden)
    return Source(kind="folder", reference=reference, class_names=names, items=items, notes=notes)


def image_files(root: Path, inside: Path) -> tuple[list[Path], list[Path]]:
    """Return (image files, folders) below `root`; links must stay in the folder `inside`."""
    found, folders = [], []
    for folder, subfolders, files in os.walk(root, onerror=_refuse_unreadable):
        subfolders[:] = sorted(name for name in subfolders if not is_hidden([name]))
        for name in subfolders:
            if os.path.islink(os.path.join(folder, name)):
                raise DataError(
                    f"expected real class folders, {name!r} is a link; put the folder itself there"
                )
            folders.append(Path(folder, name))
        for name in sorted(files):
            path = Path(folder, name)
            if is_hidden([name]) or not is_image_name(name):
                continue
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                raise DataError(
                    f"the link {name!r} leads out of the dataset's folder; copy the file itself"
                )
            found.append(path)
    return found, folders


def _is_hidden_class(folder: Path) -> bool:
    """Say whether a folder is hidden and holds images: somebody may miss it among the classes."""
    if not is_hidden([folder.name]) or folder.is_symlink() or not folder.is_dir():
        return False
    try:
        names = os.listdir(folder)
    except OSError:  # such as a trash folder of somebody else's
        return False
    return any(is_image_name(name) and not is_hidden([name]) for name in names)


def _refuse_unreadable(error: OSError) -> None:
    """Stop at a folder that cannot be listed, which os.walk would pass over in silence."""
    raise DataError(f"cannot list the folder {error.filename!r}: {error.strerror}") from error


def _read(path: Path, max_pixels: int) -> Readable:
    """Open one image file."""
    status = path.stat()
    if not path.is_file():  # a pipe would block for ever
        raise ValueError("is not a regular file")
    if status.st_size > MAX_FILE_BYTES:
        raise ValueError(f"has {status.st_size} bytes, more than the {MAX_FILE_BYTES} allowed")
    return open_image(path.read_bytes(), max_pixels=max_pixels)
