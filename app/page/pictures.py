"""Pictures of a finished bundle for the page: one image, or one of each of the first classes.

Reads only the pixels that are shown, through a memory map: a bundle may be larger than the
service's memory. The file is our own worker's, so the strict reader is not asked again.
"""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from distillery.bundle.schema import FILE_NAME
from distillery.tensorfile import map_tensors, read_header

LARGEST_PX = 256
STRIP_PX = 48
STRIP_CLASSES = 8


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle's class table and its tensors, not read yet."""

    classes: tuple[str, ...]
    images_per_class: int
    score_names: tuple[str, ...]
    tensors: Mapping[str, np.ndarray]

    @property
    def num_images(self) -> int:
        """Number of images."""
        return len(self.tensors["images"])

    @property
    def side(self) -> int:
        """Side of an image in pixels."""
        return int(self.tensors["images"].shape[-1])


def open_bundle(folder: Path) -> Bundle | None:
    """Return the bundle in a folder, None where there is none (yet)."""
    path = folder / FILE_NAME
    try:
        _, metadata, _ = read_header(path)
        tensors = map_tensors(path)
    except FileNotFoundError:  # not made yet, or its job is being deleted
        return None
    return Bundle(
        tuple(json.loads(metadata["classes"])),
        int(metadata["ipc"]),
        tuple(json.loads(metadata["score_names"])),
        tensors,
    )


def image_png(bundle: Bundle, index: int) -> bytes:
    """Return image `index` as PNG, large ones reduced.

    Raises:
        IndexError: If the bundle has no such image.
    """
    if not 0 <= index < bundle.num_images:
        raise IndexError(f"the bundle has images 0 to {bundle.num_images - 1}, got {index}")
    return _png(_picture(bundle.tensors["images"][index], LARGEST_PX))


def strip_png(bundle: Bundle) -> bytes:
    """Return the first image of each of the first classes, side by side."""
    num_classes = min(len(bundle.classes), STRIP_CLASSES)
    gap = STRIP_PX // 6
    strip = Image.new("RGBA", (num_classes * (STRIP_PX + gap) - gap, STRIP_PX))
    for number in range(num_classes):
        picture = _picture(bundle.tensors["images"][number * bundle.images_per_class], STRIP_PX)
        # small images are shown as the pixels they are
        kind = Image.Resampling.NEAREST if bundle.side < STRIP_PX else Image.Resampling.LANCZOS
        strip.paste(picture.resize((STRIP_PX, STRIP_PX), kind), (number * (STRIP_PX + gap), 0))
    return _png(strip)


def image_facts(bundle: Bundle, index: int) -> list[tuple[str, str]]:
    """Return what the bundle knows of one image, as (name, value) for a reader."""
    tensors = bundle.tensors
    cluster, seed = int(tensors["cluster_ids"][index]), int(tensors["seeds"][index])
    facts = [
        ("stands for", f"cluster {cluster}" if cluster >= 0 else "no cluster"),
        ("weight", f"{float(tensors['weights'][index]):.3g}"),
        ("noise seed", str(seed) if seed >= 0 else "none, it began as a real image"),
    ]
    scores = tensors["scores"][index] if bundle.score_names else ()
    facts += [
        (name.replace("_", " "), f"{float(value):.3g}")
        for name, value in zip(bundle.score_names, scores, strict=True)
    ]
    if "teacher_logits" in tensors:
        facts.append(("teacher sees", _teacher(bundle, index)))
    return facts


def _teacher(bundle: Bundle, index: int) -> str:
    """Return the teacher's first class, and a likely second, with their probabilities."""
    logits = np.asarray(bundle.tensors["teacher_logits"][index], np.float64)
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    first, *others = np.argsort(-shares)[:2]
    seen = [first, *(label for label in others if shares[label] >= 0.01)]
    return ", ".join(f"{bundle.classes[label]} ({100 * shares[label]:.0f} %)" for label in seen)


def _picture(image: np.ndarray, largest: int) -> Image.Image:
    """Return one image (C, H, W) as a picture of at most `largest` pixels a side."""
    pixels = np.ascontiguousarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
    picture = Image.fromarray(pixels)
    if max(picture.size) > largest:
        picture.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    return picture


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
