"""Whether a local dataset is still the one that was read: names, sizes and times of its files.

The time of the last change of any kind (ctime) is among them: a broken file that is put back from a
copy has the size and the time of its content, and so has one whose permissions were mended.

A path says nothing of what lies there today, and `photos` is another folder elsewhere; reading
every pixel to find out is what a cache is there to save.
"""

import os
from pathlib import Path

from distillery.data.source import clean_text
from distillery.files import digest_json


def source_stamp(dataset: str) -> str | None:
    """Return a digest of the files of a local dataset, None for one that is no path.

    Hidden files do not count, and the folder itself may be moved.

    Args:
        dataset: As in `DataConfig`.
    """
    try:
        path = Path(dataset).expanduser()
        if dataset == "digits" or not path.exists():
            return None
    except (OSError, ValueError, RuntimeError):  # too long, a NUL inside, an unknown ~user
        return None
    files = [path] if path.is_file() else _files_below(path)
    return digest_json(sorted(_row(file, path) for file in files))


def _files_below(folder: Path) -> list[Path]:
    """Return the files of a folder and its folders, without hidden ones."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    return found


def _row(file: Path, root: Path) -> list[str | int]:
    """Return name, size and time of a file; of a link that leads nowhere, its name."""
    name = clean_text(file.relative_to(root).as_posix() if file != root else file.name)
    try:
        facts = file.stat()
    except OSError:
        return [name]
    return [name, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns]
