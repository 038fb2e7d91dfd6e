"""From file paths to classes and splits, for folders and archives alike.

    [wrapping folder/] class/.../image.png
    [wrapping folder/] train|val|valid|validation|test / class/.../image.png

The class is the folder's name; anything below it belongs to it. Hidden files are left out. What
looks like splits but cannot be used as such is refused: as classes they would train nothing.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from distillery.data.source import Item, Readable, Split, class_table, clean_text
from distillery.errors import DataError
from distillery.wording import counted, were

IMAGE_SUFFIXES = (
    ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".pnm",
    ".tif", ".tiff", ".webp",
)  # fmt: skip
SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One file found: the parts of its path below the dataset's root, and how to open it."""

    parts: tuple[str, ...]
    read: Callable[[], Readable]


def is_image_name(name: str) -> bool:
    """Say whether a file of this name is taken for an image."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def is_hidden(parts: Sequence[str]) -> bool:
    """Say whether a path is one that systems leave behind (`.DS_Store`, `__MACOSX/...`)."""
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def arrange(
    entries: Sequence[Entry],
    reference: str,
    folders: Iterable[tuple[str, ...]] = (),
    hidden: Sequence[str] = (),
) -> tuple[tuple[str, ...], list[Item], tuple[str, ...]]:
    """Return (class names, items sorted by name, notes) for image files found below a root.

    Args:
        entries: The image files.
        reference: Name of the dataset, for messages.
        folders: Paths of all folders, so that one without images can be noted.
        hidden: Names of hidden folders that hold images, which are noted too.

    Raises:
        DataError: If there are no images, no class folders or only one, or if folders of splits
            lie beside others.
    """
    if not entries:
        raise DataError(
            f"expected folders of images in {reference!r}, found no image at all; known endings "
            f"are {', '.join(IMAGE_SUFFIXES)}"
        )
    cleaned = [Entry(tuple(map(clean_text, e.parts)), e.read) for e in entries]
    cleaned, top = _unwrap(cleaned)
    splitted = _is_split_layout(cleaned, reference)
    depth = 3 if splitted else 2
    usable = [entry for entry in cleaned if len(entry.parts) >= depth]
    if not usable:
        raise DataError(
            f"expected one folder of images per class in {reference!r}, but all images lie "
            "together without class folders; move the images of each class into its own folder"
        )
    names = class_table(entry.parts[depth - 2] for entry in usable)
    label_of = {name: label for label, name in enumerate(names)}
    items = [
        Item(
            "/".join(entry.parts),
            label_of[entry.parts[depth - 2]],
            SPLIT_NAMES[entry.parts[0].lower()] if splitted else None,
            entry.read,
        )
        for entry in usable
    ]
    flat = _without_classes(cleaned) if splitted else {}
    strays = len(cleaned) - len(usable) - sum(flat.values())
    notes = [
        *_notes(strays, flat, _without_images(usable, folders, top, depth), hidden),
        *_merged(entries, top, depth),
    ]
    return names, sorted(items, key=lambda item: item.name), tuple(notes)


def _notes(
    strays: int, flat: Mapping[str, int], empty: Sequence[str], hidden: Sequence[str]
) -> list[str]:
    """Return what was left out, a sentence each."""
    notes = [
        f"{name!r} has no class folders, so its {counted(count, 'image')} {were(count)} left out"
        for name, count in flat.items()
    ]
    if strays:
        what = f"{counted(strays, 'image')} outside of any class folder"
        notes.append(f"{what} {were(strays)} left out")
    for found, kind, holding in ((empty, "folder", "without"), (hidden, "hidden folder", "with")):
        if found:
            shown = ", ".join(map(repr, found[:3])) + (", ..." if len(found) > 3 else "")
            what = f"{counted(len(found), kind)} {holding} images"
            notes.append(f"{what} {were(len(found))} left out: {shown}")
    return notes


def _merged(entries: Sequence[Entry], top: tuple[str, ...], depth: int) -> list[str]:
    """Return which class folders are one class because they differ in their Unicode form alone."""
    start = len(top)
    found = {e.parts[start + depth - 2] for e in entries if len(e.parts) >= start + depth}
    return [
        f"{count} folders named {name!r}, in different Unicode forms, are taken as one class"
        for name, count in sorted(Counter(map(clean_text, found)).items())
        if count > 1
    ]


def _without_images(
    usable: list[Entry], folders: Iterable[tuple[str, ...]], top: tuple[str, ...], depth: int
) -> list[str]:
    """Return the folders where a class would be, but that hold no image of a known ending."""
    known = {entry.parts[: depth - 1] for entry in usable}
    found = {tuple(map(clean_text, folder)) for folder in folders}
    below = {folder[len(top) :] for folder in found if folder[: len(top)] == top}
    return sorted("/".join(f) for f in below if len(f) == depth - 1 and f not in known)


def _unwrap(entries: list[Entry]) -> tuple[list[Entry], tuple[str, ...]]:
    """Drop folders that wrap all others, while class folders are left; also return those."""
    dropped: list[str] = []
    while True:
        tops = {entry.parts[0] for entry in entries if len(entry.parts) >= 2}
        nested = sum(len(entry.parts) >= 3 for entry in entries)
        if len(tops) != 1 or 2 * nested <= len(entries):
            return entries, tuple(dropped)
        dropped += tops
        entries = [Entry(e.parts[1:] if len(e.parts) > 1 else e.parts, e.read) for e in entries]


def _is_split_layout(entries: list[Entry], reference: str) -> bool:
    """Say whether the top folders are splits: all have split names, one of them for training.

    One that holds two class folders or more is no class, whatever lies beside it.

    Raises:
        DataError: If such folders are mixed with others, or there is none to train on.
    """
    tops = {e.parts[0] for e in entries if len(e.parts) >= 2}
    nested = {e.parts[0] for e in entries if len(e.parts) >= 3}
    others = sorted(top for top in tops if top.lower() not in SPLIT_NAMES)
    train = {top for top in nested if SPLIT_NAMES.get(top.lower()) == "train"}
    if nested == tops and train and not others:
        return True
    inside = {e.parts[:2] for e in entries if len(e.parts) >= 3}
    folders = Counter(top for top, _ in inside if top.lower() in SPLIT_NAMES)
    splits = sorted(top for top, count in folders.items() if count >= 2)
    if not splits:
        return False
    if others:
        raise DataError(
            f"{splits[0]!r} in {reference!r} looks like a split with class folders, but "
            f"{others[0]!r} beside it does not: move {others[0]!r} elsewhere, or rename "
            f"{splits[0]!r} if it is a class"
        )
    if not train:
        raise DataError(
            f"{splits[0]!r} in {reference!r} looks like a split with class folders, but there is "
            "no 'train' with class folders beside it: add it, or name the folder inside"
        )
    return True


def _without_classes(entries: list[Entry]) -> dict[str, int]:
    """Return the top folders without folders of their own, and their numbers of images."""
    nested = {e.parts[0] for e in entries if len(e.parts) >= 3}
    tops = sorted(e.parts[0] for e in entries if len(e.parts) == 2)
    return dict(Counter(top for top in tops if top not in nested))
