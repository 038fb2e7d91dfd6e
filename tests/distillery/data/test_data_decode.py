"""Any image becomes uint8 (C, S, S): right brightness, upright, opaque, square."""

import io

import numpy as np
import pytest
from PIL import Image

from distillery.data.decode import flatten, open_image, to_array


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(content: bytes, size: int = 4, channels: int = 3) -> np.ndarray:
    return to_array(open_image(content, max_pixels=10**6), image_size=size, channels=channels)


def colour_of(array: np.ndarray) -> list[int]:
    """The colour of an image of one colour."""
    assert (array == array[:, :1, :1]).all()
    return array[:, 0, 0].tolist()


def test_arrays_of_the_right_size_keep_every_pixel() -> None:
    array = np.random.default_rng(0).integers(0, 256, (1, 8, 8), np.uint8)
    assert to_array(array, image_size=8, channels=1) is array
    repeated = to_array(array, image_size=8, channels=3)
    assert (repeated == array).all() and repeated.shape == (3, 8, 8)
    colours = np.zeros((3, 8, 8), np.uint8)
    colours[1] = 100  # green counts 0.587 in luma
    assert colour_of(to_array(colours, image_size=8, channels=1)) == [59]


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGB", (10, 20, 30), [10, 20, 30]),
        ("L", 77, [77, 77, 77]),
        ("1", 1, [255, 255, 255]),
        ("LA", (0, 0), [255, 255, 255]),
        ("LA", (40, 255), [40, 40, 40]),
        ("RGBA", (200, 0, 0, 0), [255, 255, 255]),  # fully transparent: the colour is hidden
        ("RGBA", (255, 0, 0, 255), [255, 0, 0]),
        ("RGBA", (0, 0, 0, 51), [204, 204, 204]),  # a fifth of black on white
        ("I;16", 65535, [255, 255, 255]),
        ("I;16", 257 * 40, [40, 40, 40]),  # clipping instead of scaling would give 255
        ("I;16", 300, [1, 1, 1]),
    ],
)
def test_png_modes(mode: str, colour, expected: list[int]) -> None:
    assert colour_of(decoded(encoded(Image.new(mode, (6, 5), colour)))) == expected


def test_palette_with_and_without_transparency() -> None:
    image = Image.new("P", (6, 6), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    assert colour_of(decoded(encoded(image))) == [10, 200, 30]
    assert colour_of(decoded(encoded(image, transparency=1))) == [255, 255, 255]
    assert colour_of(decoded(encoded(image, "GIF", transparency=1))) == [255, 255, 255]


def test_transparent_colour_of_an_rgb_png() -> None:
    image = Image.new("RGB", (6, 6), (1, 2, 3))
    assert colour_of(decoded(encoded(image, transparency=(1, 2, 3)))) == [255, 255, 255]


def test_cmyk_jpeg() -> None:
    white = encoded(Image.new("CMYK", (16, 16), (0, 0, 0, 0)), "JPEG", quality=100)
    black = encoded(Image.new("CMYK", (16, 16), (0, 0, 0, 255)), "JPEG", quality=100)
    assert min(colour_of(decoded(white))) >= 253 and max(colour_of(decoded(black))) <= 2


@pytest.mark.parametrize("kind", ["TIFF", "PPM"])
def test_other_files_of_16_bit_gray(kind: str) -> None:
    image = Image.fromarray(np.full((5, 5), 257 * 128, np.uint16))
    assert colour_of(decoded(encoded(image, kind))) == [128] * 3


def test_float_and_32_bit_images_are_scaled_or_refused() -> None:
    half = Image.fromarray(np.full((5, 5), 0.5, np.float32))
    assert colour_of(decoded(encoded(half, "TIFF"))) == [128] * 3
    for values in (np.full((5, 5), 7.0, np.float32), np.full((5, 5), np.nan, np.float32),
                   np.full((5, 5), 10**6, np.int32), np.full((5, 5), -1, np.int32)):  # fmt: skip
        with pytest.raises(ValueError, match="outside 0 to"):
            decoded(encoded(Image.fromarray(values), "TIFF"))


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (200, 200), (255, 255), (4095, 16)])
def test_a_32_bit_image_of_8_bit_values_keeps_its_brightness(value: int, expected: int) -> None:
    image = Image.fromarray(np.full((5, 5), value, np.int32))
    assert image.mode == "I"
    assert colour_of(decoded(encoded(image, "TIFF"))) == [expected] * 3
    turned = encoded(image, "TIFF", exif=_orientation(6))
    assert colour_of(decoded(turned)) == [expected] * 3


@pytest.mark.parametrize("kind", ["TIFF", "PPM"])
def test_a_dark_16_bit_image_stays_dark(kind: str) -> None:
    image = Image.fromarray(np.full((5, 5), 200, np.uint16))
    assert colour_of(decoded(encoded(image, kind))) == [1] * 3


def _orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_image_upright(orientation: int) -> None:
    upright = Image.new("L", (8, 8))
    upright.paste(255, (0, 0, 4, 4))  # white at the top left
    # how a camera held that way stores it: the inverse of what a viewer has to do
    inverse = {2: [0], 3: [3], 4: [1], 5: [5], 6: [2], 7: [6], 8: [4]}
    stored = upright
    for operation in inverse.get(orientation, []):
        stored = stored.transpose(Image.Transpose(operation))
    content = encoded(stored, "PNG", exif=_orientation(orientation))
    assert (decoded(content, 8, 1)[0] == np.asarray(upright)).all()


def test_broken_exif_turns_nothing() -> None:
    content = encoded(Image.new("RGB", (16, 16), (9, 9, 9)), "JPEG", exif=b"Exif\0\0garbage")
    assert decoded(content).shape == (3, 4, 4)


def test_the_centre_square_is_kept() -> None:
    wide = Image.new("RGB", (30, 10), (255, 0, 0))
    wide.paste((0, 0, 255), (10, 0, 20, 10))
    assert colour_of(decoded(encoded(wide), 10)) == [0, 0, 255]
    tall = wide.rotate(90, expand=True)
    assert colour_of(decoded(encoded(tall), 10)) == [0, 0, 255]
    assert decoded(encoded(Image.new("RGB", (500, 1))), 4).shape == (3, 4, 4)


def test_resizing_averages_instead_of_picking_pixels() -> None:
    board = np.indices((64, 64)).sum(0) % 2 * 255
    small = decoded(encoded(Image.fromarray(board.astype(np.uint8))), 8, 1)
    assert abs(small[:, 2:-2, 2:-2].astype(int) - 128).max() <= 2


def test_fast_jpeg_decoding_agrees_with_the_slow_way() -> None:
    ramp = np.add.outer(np.arange(512), np.arange(512)) // 5
    content = encoded(Image.fromarray(ramp.astype(np.uint8)).convert("RGB"), "JPEG", quality=95)
    slow = flatten(open_image(content, max_pixels=10**6))
    fast = flatten(open_image(content, max_pixels=10**6), 100)
    assert slow.size == (512, 512) and fast.size == (256, 256)  # never below twice the size
    a, b = (to_array(i, image_size=100, channels=3).astype(int) for i in (slow, fast))
    assert abs(a - b).max() <= 3


def test_too_many_pixels_are_refused_before_decoding() -> None:
    content = encoded(Image.new("1", (2000, 2000)))  # 4 million pixels in 0.6 kB
    assert len(content) < 5000
    with pytest.raises(ValueError, match="2000 x 2000 pixels, more than the 1000000"):
        open_image(content, max_pixels=10**6)


def test_a_size_that_pillow_itself_refuses_is_a_value_error() -> None:
    content = bytearray(encoded(Image.new("L", (10, 10))))
    content[16:24] = (50_000).to_bytes(4, "big") * 2  # IHDR now claims 2.5 billion pixels
    with pytest.raises(ValueError):
        open_image(bytes(content), max_pixels=10**6)


@pytest.mark.parametrize("content", [b"", b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\x89PNG\r\n"])
def test_other_content_is_no_image(content: bytes) -> None:
    with pytest.raises(ValueError, match="no image of a known format"):
        open_image(content, max_pixels=10**6)


def test_a_truncated_file_fails_instead_of_going_gray() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for kind in ("PNG", "JPEG"):
        content = encoded(Image.fromarray(noise), kind)
        with pytest.raises((OSError, SyntaxError)):
            decoded(content[: len(content) // 2])
