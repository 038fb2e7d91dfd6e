"""Decode a dataset once: one tensor file, the splits and the facts, for every later stage.

    images.safetensors   images uint8 (N, C, H, W), labels int64 (N,), in the order of names
    splits.safetensors   train, validation, test: int64 indices, sorted
    dataset.json         class table, counts, bad files, duplicates, leakage, fingerprint

Memory does not grow with the pixels: decoded images go straight to the file.
"""

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from distillery.data.config import DataConfig
from distillery.data.decode import to_array
from distillery.data.inspection import inspect
from distillery.data.source import Item, Source, failure_reason
from distillery.data.splits import (
    SPLITS,
    assign_splits,
    count_classes,
    lacking_classes,
    settle_given,
)
from distillery.data.tensorstream import ImageStream
from distillery.errors import DataError
from distillery.files import digest_json, write_json
from distillery.progress import OnProgress, Progress, ignore_progress
from distillery.tensorfile import write_tensors
from distillery.wording import counted

IMAGES_FILE, SPLITS_FILE, FACTS_FILE = "images.safetensors", "splits.safetensors", "dataset.json"
CHUNK = 32
"""Images that one thread decodes in a row: small enough to share, large enough to be worth it."""


@dataclass(slots=True)
class _Decoded:
    """What is known of the images once all are written."""

    kept: list[int] = field(default_factory=list)
    bad_files: list[dict[str, str]] = field(default_factory=list)
    digests: list[int] = field(default_factory=list)
    pixels: Any = field(default_factory=hashlib.sha256)


def prepare_dataset(
    source: Source,
    *,
    config: DataConfig,
    image_size: int,
    channels: int,
    folder: Path,
    on_progress: OnProgress = ignore_progress,
) -> dict[str, Any]:
    """Decode all images into `folder` and return the facts that were written beside them.

    Args:
        source: The opened dataset.
        config: How to split it, and how many images a class needs.
        image_size: Height and width of every image.
        channels: 1 or 3.
        folder: An existing folder of the caller's; files appear there whole, facts last.
        on_progress: Told now and then; may raise `Cancelled`.

    Returns:
        The content of `dataset.json`. Its `fingerprint` is equal exactly where class names,
        images, labels, splits and their order are: where the files lie does not matter.

    Raises:
        DataError: If a class has too few training images that can be decoded, or a split that
            the dataset brings along has no image that can.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 or 3, got {channels}")
    items = sorted(source.items, key=lambda item: item.name)
    shape = (channels, image_size, image_size)
    with ImageStream(folder / IMAGES_FILE, len(items), shape) as stream:
        decoded = _decode_all(items, shape, stream, on_progress)
        kept = [items[index] for index in decoded.kept]
        labels = np.array([item.label for item in kept], dtype=np.int64)
        _check_given(items, decoded)
        given = [item.split for item in kept]
        splits = assign_splits(labels, given, config)
        counts = count_classes(labels, splits, len(source.class_names))
        _check_counts(counts["train"], source, decoded.bad_files, config.min_images_per_class)
        stream.finish(labels)
    write_tensors(folder / SPLITS_FILE, splits)

    names = [item.name for item in kept]
    repeats = inspect(np.array(decoded.digests, np.uint64), labels, names, splits)
    facts: dict[str, Any] = {
        "kind": source.kind,
        "reference": source.reference,
        "revision": source.revision,
        "licence": source.licence,
        "class_names": list(source.class_names),
        "image_size": image_size,
        "channels": channels,
        "counts": counts,
        "bad_files": decoded.bad_files,
        "duplicates": repeats.duplicates,
        "leakage": repeats.leakage,
        "test_repeats": repeats.test_repeats,
        "notes": [
            *source.notes,
            *settle_given(given)[1],
            *lacking_classes(counts, source.class_names),
        ],
        "fingerprint": _fingerprint(source.class_names, decoded.pixels, shape, labels, splits),
    }
    write_json(folder / FACTS_FILE, facts)
    return facts


def _decode_all(
    items: Sequence[Item], shape: tuple[int, int, int], stream: ImageStream, report: OnProgress
) -> _Decoded:
    """Decode in threads, write in order."""
    decoded = _Decoded()
    done = 0
    report(Progress("prepare", 0, len(items), "decoding images"))
    # closed here, not when the garbage collector comes by: it holds threads and warning filters
    with closing(_decoded_chunks(items, shape)) as chunks:
        for result in chunks:
            for image in result:
                _take(decoded, stream, image, done, items[done].name)
                done += 1
            report(Progress("prepare", done, len(items), "decoding images"))
    return decoded


def _take(
    decoded: _Decoded, stream: ImageStream, image: np.ndarray | str, index: int, name: str
) -> None:
    """Write one image, or note why it is missing."""
    if isinstance(image, str):
        decoded.bad_files.append({"name": name, "reason": image})
        return
    content = image.tobytes()
    stream.write(content)
    decoded.pixels.update(content)
    short = hashlib.blake2b(content, digest_size=8).digest()
    decoded.digests.append(int.from_bytes(short, "little"))
    decoded.kept.append(index)


def _decoded_chunks(
    items: Sequence[Item], shape: tuple[int, int, int]
) -> Generator[list[np.ndarray | str], None, None]:
    """Yield the images of each chunk of items in order; a text says why an image is missing."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    num_threads = min(8, cores or 1)
    chunks = [items[start : start + CHUNK] for start in range(0, len(items), CHUNK)]
    window = 4 * num_threads  # bounds what waits in memory
    # once around all threads: the list of filters is shared by the whole process
    with warnings.catch_warnings(), ThreadPoolExecutor(num_threads) as pool:
        warnings.filterwarnings("ignore", module=r"PIL\.")  # odd files that decode all the same
        for start in range(0, len(chunks), window):
            yield from pool.map(lambda chunk: _decode(chunk, shape), chunks[start : start + window])


def _decode(chunk: Sequence[Item], shape: tuple[int, int, int]) -> list[np.ndarray | str]:
    results: list[np.ndarray | str] = []
    for item in chunk:
        try:
            results.append(to_array(item.read(), image_size=shape[1], channels=shape[0]))
        except MemoryError:
            raise
        except Exception as error:  # decoders raise all sorts of things; the file is reported
            results.append(failure_reason(error, item.name))
    return results


def _check_given(items: Sequence[Item], decoded: _Decoded) -> None:
    """Refuse a given split that is all broken: another would be drawn, or used, in its place.

    Raises:
        DataError: With the split, and a file of it.
    """
    before = Counter(item.split for item in items)
    if None in before or len(before) < 2:  # then all splits are drawn (`settle_given`)
        return
    after = {items[index].split for index in decoded.kept}
    for split in SPLITS:
        if split in before and split not in after:
            names = {item.name for item in items if item.split == split}
            first = next(bad for bad in decoded.bad_files if bad["name"] in names)
            raise DataError(
                f"the dataset has a {split} split, but none of its files can be used "
                f"({before[split]}; the first is {first['name']!r}, which {first['reason']}): mend "
                "the files"
                + (f", or remove the {split} split to have one drawn" * (split != "train"))
            )


def _check_counts(
    counts: list[int], source: Source, bad_files: list[dict[str, str]], minimum: int
) -> None:
    """Refuse a class with too few training images."""
    short = [label for label, count in enumerate(counts) if count < minimum]
    if not short:
        return
    label = short[0]
    others = f" (and {len(short) - 1} more with too few)" if len(short) > 1 else ""
    broken = (
        f"; {counted(len(bad_files), 'file')} could not be used, the first is "
        f"{bad_files[0]['name']!r}, which {bad_files[0]['reason']}"
        if bad_files
        else ""
    )
    raise DataError(
        f"every class needs {minimum} training images, class {source.class_names[label]!r} has "
        f"{counts[label]} once validation and test are set apart{others}{broken}; add images, "
        "remove the class, or allow fewer with --set data.min_images_per_class=N"
    )


def _fingerprint(
    class_names: Sequence[str],
    pixels: Any,
    shape: tuple[int, int, int],
    labels: np.ndarray,
    splits: dict[str, np.ndarray],
) -> str:
    """Return the SHA-256 that identifies what later stages see."""
    return digest_json(
        {
            "class_names": list(class_names),
            "shape": list(shape),
            "pixels": pixels.hexdigest(),
            "labels": hashlib.sha256(labels.tobytes()).hexdigest(),
            "splits": {k: hashlib.sha256(v.tobytes()).hexdigest() for k, v in splits.items()},
        }
    )
