"""One picture of a distilled dataset: a row for each class, its images side by side.

The ground is transparent and the text mid-gray, so that the PNG reads on a light and on a dark
page. Tiny images are enlarged by whole pixels, large ones are reduced. Pillow only.

Names are written in fonts of the machine where our own lack their letters, so the picture's bytes
may differ between machines, and with them the checksums of the folder and its report. Equal bytes
are promised on one type of machine only, and what names a dataset anywhere, the content digest of
`distilled.safetensors`, is of the tensors alone: a readable name is worth that.

Legend: N images, C channels, H = W pixels.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from distillery.bundle.fonts import Font, default_font, font_for

MAX_COLUMNS = 20
MAX_ROWS = 40
_TEXT = (115, 122, 130, 255)  # 4.3:1 against white and against the page's dark ground
_FONT_PX = 15
_SMALL_PX = 12
_GAP = 6
_MARGIN = 16
_MAX_NAME_PX = 170
_MIN_TILE_PX, _MAX_TILE_PX = 56, 112
_BLOCK_GAP = 36
_TARGET_ASPECT = 1.3
_MAX_WIDTH_PX = 1600  # of several blocks beside one another

_Caption = tuple[str, Font]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layout:
    """Where things stand, in pixels; a block is a group of classes under one another."""

    tile: int
    num_columns: int
    num_rows: int
    num_blocks: int
    name_width: int
    row_height: int

    @property
    def block_width(self) -> int:
        return self.name_width + self.num_columns * (self.tile + _GAP) - _GAP

    @property
    def rows_per_block(self) -> int:
        return math.ceil(self.num_rows / self.num_blocks)

    @property
    def size(self) -> tuple[int, int]:
        width = 2 * _MARGIN + self.num_blocks * (self.block_width + _BLOCK_GAP) - _BLOCK_GAP
        return width, 2 * _MARGIN + self.rows_per_block * self.row_height - _GAP

    def origin(self, row: int) -> tuple[int, int]:
        """Return the top left corner of a class's row."""
        block, line = divmod(row, self.rows_per_block)
        return _MARGIN + block * (self.block_width + _BLOCK_GAP), _MARGIN + line * self.row_height


def preview_png(
    images: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    *,
    scores: np.ndarray | None = None,
) -> bytes:
    """Return a PNG of at most 40 rows, one a class, with 20 images; it says what it leaves out.

    Args:
        images: uint8 (N, C, H, W) with C = 1 or 3.
        labels: Index of each image's class (N,); classes without an image have no row.
        classes: Name of each class, any text.
        scores: One number for each image (N,), written below it, or None.

    Raises:
        ValueError: If there is no image, or shapes and labels do not fit.
    """
    _check(images, labels, num_classes=len(classes))
    present = np.unique(labels)
    rows = [np.flatnonzero(labels == label) for label in present[:MAX_ROWS]]
    captions = [_caption(classes[label], label) for label in present[:MAX_ROWS]]
    layout = _plan(rows, captions, image_size=max(images.shape[2:]), with_scores=scores is not None)
    width, height = layout.size
    left_out = _left_out(num_classes=len(present), most=int(np.bincount(labels).max()))
    footer = _FONT_PX + 14 if left_out else 0
    canvas = Image.new("RGBA", (width, height + footer))
    draw = ImageDraw.Draw(canvas)
    for row, (members, (name, font)) in enumerate(zip(rows, captions, strict=True)):
        x, y = layout.origin(row)
        draw.text((x, y + layout.tile / 2), name, fill=_TEXT, font=font, anchor="lm")
        for column, index in enumerate(members[:MAX_COLUMNS]):
            left = x + layout.name_width + column * (layout.tile + _GAP)
            canvas.paste(_tile(images[index], layout.tile), (left, y))
            if scores is not None:
                place = (left + layout.tile / 2, y + layout.tile + 3)
                draw.text(
                    place, f"{scores[index]:.2f}", _TEXT, default_font(_SMALL_PX), anchor="ma"
                )
    if left_out:
        draw.text(
            (_MARGIN, height + footer - _MARGIN), left_out, _TEXT, default_font(_FONT_PX), "ls"
        )
    return _png(canvas)


def _png(canvas: Image.Image) -> bytes:
    buffer = io.BytesIO()
    canvas.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _check(images: np.ndarray, labels: np.ndarray, *, num_classes: int) -> None:
    if images.ndim != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
        raise ValueError(f"images must have shape (N, 1 or 3, H, W), got {images.shape}")
    if labels.shape != images.shape[:1] or labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"labels must have shape ({len(images)},) with values in 0..{num_classes - 1}, "
            f"got shape {labels.shape}"
        )


def _plan(
    rows: Sequence[np.ndarray], captions: Sequence[_Caption], *, image_size: int, with_scores: bool
) -> _Layout:
    """Choose the tile size, and as many blocks as bring the picture near a screen's shape."""
    num_columns = min(MAX_COLUMNS, max(len(members) for members in rows))
    tile = image_size * max(1, round(64 / image_size))
    tile = min(max(tile, _MIN_TILE_PX), _MAX_TILE_PX)
    widest = max(font.getlength(name) for name, font in captions)
    plans = [
        _Layout(
            tile=tile,
            num_columns=num_columns,
            num_rows=len(rows),
            num_blocks=num_blocks,
            name_width=math.ceil(widest) + 14,
            row_height=tile + _GAP + (_SMALL_PX + 4 if with_scores else 0),
        )
        for num_blocks in range(1, min(len(rows), 8) + 1)
    ]
    narrow = [plan for plan in plans if plan.size[0] <= _MAX_WIDTH_PX]
    return min(narrow or plans[:1], key=_unfitness)


def _unfitness(plan: _Layout) -> float:
    """Return how far a layout is from a screen's shape, places left empty counted in."""
    width, height = plan.size
    empty = plan.num_blocks * plan.rows_per_block - plan.num_rows
    return abs(math.log(width / height / _TARGET_ASPECT)) + 4 * empty / plan.num_rows


def _tile(image: np.ndarray, size: int) -> Image.Image:
    """Return one image (C, H, W) as a picture of `size` pixels a side."""
    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)  # (H, W) or (H, W, C)
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    # small images are shown as the pixels they are; blurring them would flatter
    grows = max(picture.size) <= size
    kind = Image.Resampling.NEAREST if grows else Image.Resampling.LANCZOS
    return picture.resize((size, size), kind)


def _left_out(*, num_classes: int, most: int) -> str:
    """Say what the caps left out, or nothing."""
    parts = []
    if most > MAX_COLUMNS:
        parts.append(f"the first {MAX_COLUMNS} of {most} images of a class")
    if num_classes > MAX_ROWS:
        parts.append(f"the first {MAX_ROWS} of {num_classes} classes")
    return "Shown: " + " and ".join(parts) if parts else ""


def _caption(name: str, label: int) -> _Caption:
    """Return the name with a font that has all of its letters, else the class's number."""
    font = font_for(name.strip(), _FONT_PX) if name.isprintable() and name.strip() else None
    if font is None:
        return f"class {label}", default_font(_FONT_PX)
    return _shortened(name.strip(), font), font


def _shortened(name: str, font: Font) -> str:
    """Return the name, cut with an ellipsis to fit the column of names."""
    name = name[:100]
    if font.getlength(name) <= _MAX_NAME_PX:
        return name
    end = next(
        end for end in range(len(name), 0, -1) if font.getlength(name[:end] + "...") <= _MAX_NAME_PX
    )
    return name[:end].rstrip() + "..."
