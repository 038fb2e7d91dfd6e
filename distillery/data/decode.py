"""Any image file to the one form that the pipeline knows: uint8 (C, H, W), square.

Colour profiles are ignored; transparency is laid on white, as a page would show it; only the
first frame of an animation counts. Shapes: C channels (1 gray, 3 RGB), H and W pixels.
"""

import io

import numpy as np
from PIL import Image, ImageOps

from distillery.data.source import Readable

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Decoders that may run; the others (EPS, FITS, PSD, ...) only widen the attack surface."""
MAX_FILE_BYTES = 256 * 1024 * 1024
"""Image files larger than this are not read."""
ORIENTATION_TAG = 0x0112
SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")


def open_image(content: bytes, *, max_pixels: int) -> Image.Image:
    """Read the header of an image file, without decoding its pixels.

    Args:
        content: The whole file.
        max_pixels: Largest width x height that may be decoded later.

    Raises:
        ValueError: If the image is too large, empty or of no known format.
    """
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"has more than the {max_pixels} pixels allowed") from error
    except Image.UnidentifiedImageError as error:
        raise ValueError("is no image of a known format") from error
    width, height = image.size
    if width * height > max_pixels:
        raise ValueError(f"has {width} x {height} pixels, more than the {max_pixels} allowed")
    if width * height == 0:
        raise ValueError("has no pixels")
    return image


def to_array(image: Readable, *, image_size: int, channels: int) -> np.ndarray:
    """Return an image as uint8 (channels, image_size, image_size).

    Turned as its EXIF says; the centre square, resized with a Lanczos filter; an array or image
    that has the size already keeps its pixels.

    Args:
        image: uint8 (C, H, W), or an opened image.
        image_size: Height and width of the result.
        channels: 1 for luma (ITU-R 601), 3 for RGB (gray is repeated).

    Raises:
        ValueError: If pixels have no defined brightness (see `_eight_bit`).
        OSError: If the file is cut short or broken.
    """
    if isinstance(image, np.ndarray):
        if image.shape == (channels, image_size, image_size):
            return image
        image = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
    flat = flatten(image, image_size).convert("L" if channels == 1 else "RGB")
    pixels = np.asarray(_square(flat, image_size))  # (H, W) or (H, W, 3)
    return np.ascontiguousarray(pixels[None] if channels == 1 else pixels.transpose(2, 0, 1))


def flatten(image: Image.Image, image_size: int | None = None) -> Image.Image:
    """Decode to mode L or RGB: upright, opaque on white, 8 bits.

    With `image_size`, a large JPEG is decoded at a fraction of its size, but never below twice
    the size wanted, which saves most of the work and cannot be seen after the resize.
    """
    if image_size is not None:
        image.draft(None, (2 * image_size, 2 * image_size))
    image.load()
    is_tiff = image.format == "TIFF"  # a turned image has forgotten its format
    image = _upright(image)
    if image.mode in (*SIXTEEN_BIT_MODES, "F"):
        return _eight_bit(image, is_tiff)
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        white = Image.new("RGBA", colours.size, (255, 255, 255, 255))
        opaque = Image.alpha_composite(white, colours)
        return opaque.convert("L" if image.mode in ("L", "LA", "La") else "RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _upright(image: Image.Image) -> Image.Image:
    """Turn the image as its EXIF orientation says; broken EXIF data turn nothing."""
    try:
        turned = image.getexif().get(ORIENTATION_TAG, 1) not in (1, None)
    except Exception:  # whatever the EXIF parser trips over, the pixels are still good
        return image
    return ImageOps.exif_transpose(image) if turned else image


def _eight_bit(image: Image.Image, is_tiff: bool) -> Image.Image:
    """Scale 16-bit gray (0 to 65535) or float (0 to 1) to 0 to 255; refuse other ranges.

    A 32-bit TIFF within 0 to 255 holds 8-bit values. Elsewhere those are a dark picture: a 16-bit
    PGM is opened as mode I, too.
    """
    values = np.asarray(image).astype(np.float64)
    top = 1.0 if image.mode == "F" else 65535.0
    if is_tiff and image.mode == "I" and values.max() <= 255:
        top = 255.0
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= top):
        raise ValueError(f"has pixels of mode {image.mode} outside 0 to {top:g}")
    return Image.fromarray(np.rint(values * (255 / top)).astype(np.uint8))


def _square(image: Image.Image, image_size: int) -> Image.Image:
    """Resize the centre square to `image_size`."""
    width, height = image.size
    if (width, height) == (image_size, image_size):
        return image
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((image_size, image_size), Image.Resampling.LANCZOS, box=box)
