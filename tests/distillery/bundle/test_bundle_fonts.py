"""Names of any script: drawn where a font of the machine has their letters."""

from pathlib import Path

import numpy as np
import pytest

from distillery.bundle import fonts, preview
from distillery.bundle.fonts import font_for
from distillery.bundle.preview import preview_png

pytest.importorskip("fontTools")


def write_font(path: Path, letters: str) -> None:
    """Write a font whose letters are squares of different sizes."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    def square(side: int) -> object:
        pen = TTGlyphPen(None)
        pen.moveTo((0, 0))
        for corner in ((0, side), (side, side), (side, 0)):
            pen.lineTo(corner)
        pen.closePath()
        return pen.glyph()

    names = [".notdef", *(f"u{ord(letter):04x}" for letter in letters)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(letter): f"u{ord(letter):04x}" for letter in letters})
    builder.setupGlyf({name: square(300 + 100 * i) for i, name in enumerate(names)})
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    path.parent.mkdir(parents=True, exist_ok=True)
    builder.save(path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the only folder of fonts of the machine."""
    monkeypatch.setattr(fonts, "font_folders", lambda: (tmp_path, tmp_path / "none"))
    return tmp_path


def caption(name: str) -> str:
    return preview._caption(name, 3)[0]


def test_a_name_is_drawn_where_the_machine_has_its_letters(folder: Path) -> None:
    write_font(folder / "cjk" / "Some-Regular.ttf", "金魚")
    assert caption("金 魚") == "金 魚"
    assert caption("金魚猫") == "class 3", "a letter is missing"
    arguments = np.zeros((1, 1, 8, 8), np.uint8), np.array([0])
    assert preview_png(*arguments, ["金魚"]) != preview_png(*arguments, ["class 0"])


def test_without_such_a_font_the_number_stands_for_the_name(folder: Path) -> None:
    assert caption("金魚") == "class 3" and caption("cat") == "cat"


def test_a_font_that_has_all_letters_is_taken_before_others(folder: Path) -> None:
    write_font(folder / "A-Regular.ttf", "金")
    write_font(folder / "B-Bold.ttf", "金魚")
    write_font(folder / "C-Regular.ttf", "金魚")
    font = font_for("金魚", 15)
    assert font is not None and font.getname() == ("C-Regular", "Regular")  # type: ignore[union-attr]


def test_broken_fonts_and_fonts_of_boxes_are_passed_over(folder: Path) -> None:
    (folder / "broken.ttf").write_bytes(b"\x00\x01\x00\x00 no font")
    write_font(folder / "LastResort.ttf", "金魚")
    assert caption("金魚") == "class 3"
    write_font(folder / "Whole.otf", "犬")
    fonts._paths.cache_clear()
    assert caption("犬") == "犬"


def test_latin_names_never_look_at_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "font_folders", lambda: pytest.fail("looked"))
    assert caption("Кошка") == "Кошка" and caption("golden retriever") == "golden retriever"
