"""The preview shows the pixels that are there, and says what it leaves out."""

import io

import numpy as np
import pytest
from PIL import Image

from distillery.bundle import preview
from distillery.bundle.preview import preview_png


def picture_of(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGBA"))


def colours(array: np.ndarray) -> set[tuple[int, ...]]:
    opaque = array[array[..., 3] == 255]
    return {tuple(map(int, colour)) for colour in np.unique(opaque[:, :3], axis=0)}


def filled(colour: tuple[int, int, int], size: int) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.uint8)[:, None, None], (3, size, size))


def test_every_image_is_shown_in_the_row_of_its_class() -> None:
    red, green, blue = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    images = np.stack([filled(red, 8), filled(green, 8), filled(blue, 8), filled(blue, 8)])
    array = picture_of(preview_png(images, np.array([0, 1, 2, 2]), ["a", "b", "c"]))

    def places(colour: tuple[int, int, int]) -> np.ndarray:
        return np.argwhere((array[..., :3] == colour).all(axis=-1) & (array[..., 3] == 255))

    assert len(places(red)) == 64 * 64  # eight pixels grow to 64
    assert len(places(blue)) == 2 * 64 * 64
    assert places(red)[:, 0].max() < places(green)[:, 0].min()
    assert places(green)[:, 0].max() < places(blue)[:, 0].min()
    assert array[0, 0, 3] == 0  # the ground is transparent


@pytest.mark.parametrize("size", [8, 28, 32, 100])
def test_small_images_are_enlarged_without_new_colours(size: int) -> None:
    image = np.zeros((1, 1, size, size), np.uint8)
    image[..., ::2] = 255
    array = picture_of(preview_png(image, np.array([0]), ["a"]))
    assert {colour for colour in colours(array) if colour[0] in (0, 255)} >= {(0,) * 3, (255,) * 3}
    tile = array[16:-16, -16 - 40 : -16]  # inside the tile, away from the name
    assert colours(tile) == {(0, 0, 0), (255, 255, 255)}


def test_large_images_are_reduced() -> None:
    array = picture_of(preview_png(np.zeros((1, 3, 512, 512), np.uint8), np.array([0]), ["a"]))
    assert array.shape[0] < 200


def test_what_is_left_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    real = preview._left_out
    monkeypatch.setattr(
        preview, "_left_out", lambda **facts: said.append(real(**facts)) or said[-1]
    )
    labels = np.repeat(np.arange(45), 25)
    images = np.zeros((len(labels), 1, 8, 8), np.uint8)
    wide = picture_of(preview_png(images, labels, [str(i) for i in range(45)]))
    few = picture_of(preview_png(images[:10], labels[:10], ["0"]))
    assert said == [
        "Shown: the first 20 of 25 images of a class and the first 40 of 45 classes",
        "",
    ]
    assert 20 * 64 < wide.shape[1] < 1700 and 40 * 64 < wide.shape[0] < 3000
    assert few.shape[0] < wide.shape[0]


def test_one_image_per_class_is_no_thin_strip() -> None:
    array = picture_of(
        preview_png(np.zeros((40, 1, 8, 8), np.uint8), np.arange(40), [str(i) for i in range(40)])
    )
    assert 0.5 < array.shape[1] / array.shape[0] < 2


@pytest.mark.parametrize(
    "name", ["", " ", "a\nb", "\x00", "金魚", "x" * 100_000, "a\u202eb", "Кошка"]
)
def test_any_class_name_is_drawn_or_replaced(name: str) -> None:
    array = picture_of(preview_png(np.zeros((1, 1, 8, 8), np.uint8), np.array([0]), [name]))
    assert array.shape[1] < 400
    assert (array[..., 3] > 0).sum() > 64 * 64  # some text stands beside the tile


def test_scores_make_room_for_themselves() -> None:
    images, labels = np.zeros((4, 1, 8, 8), np.uint8), np.array([0, 0, 1, 1])
    bare = picture_of(preview_png(images, labels, ["a", "b"]))
    scored = picture_of(preview_png(images, labels, ["a", "b"], scores=np.linspace(0, 1, 4)))
    assert scored.shape[0] > bare.shape[0]


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((0, 1, 8, 8), np.uint8), np.zeros(0, int)),
        (np.zeros((2, 2, 8, 8), np.uint8), np.zeros(2, int)),
        (np.zeros((2, 1, 8, 8), np.uint8), np.zeros(3, int)),
        (np.zeros((2, 1, 8, 8), np.uint8), np.array([0, 1])),
    ],
)
def test_images_and_labels_that_do_not_fit_are_refused(
    images: np.ndarray, labels: np.ndarray
) -> None:
    with pytest.raises(ValueError, match="must have shape"):
        preview_png(images, labels, ["only"])
