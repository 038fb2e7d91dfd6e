"""Fonts for names of any script: Pillow's own, matplotlib's, then those of the machine.

Pillow's own font holds ASCII; matplotlib, where it is installed, brings one for most scripts but
the East Asian ones. A letter without a shape would come out as an empty box.
"""

import importlib.util
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
SUFFIXES = (".ttf", ".otf", ".ttc")
MAX_FONTS = 1000
"""Fonts of the machine that are looked at."""
NO_FONTS = ("lastresort", "adobeblank", "emoji")
"""Parts of the names of fonts whose shapes are no letters."""
_UNKNOWN = "\uffff"
"""No letter: every font shows it as it shows letters that it lacks."""


def default_font(size: int) -> Font:
    """Return the font for what we write ourselves."""
    return ImageFont.load_default(size)


def font_for(name: str, size: int) -> Font | None:
    """Return the first font that has every letter of a name, None where there is none."""
    for font in _fonts(size):
        if _has_all(font, name):
            return font
    return None


def font_folders() -> tuple[Path, ...]:
    """Return where Linux, macOS and Windows keep fonts, the user's own last."""
    home = Path(os.path.expanduser("~"))  # unlike Path.home, no error where there is none
    return (
        Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), Path("/System/Library/Fonts"),
        Path("/Library/Fonts"), Path("C:/Windows/Fonts"), home / ".local/share/fonts",
        home / ".fonts", home / "Library/Fonts",
    )  # fmt: skip


def _fonts(size: int) -> Iterator[Font]:
    """Yield the fonts for names, the nicest first; those of the machine are opened when needed."""
    yield default_font(size)
    package = importlib.util.find_spec("matplotlib")  # found, not imported: only its file is used
    if package is not None and package.origin is not None:
        path = Path(package.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if path.is_file():
            yield ImageFont.truetype(path, size - 1)
    for path in _paths(font_folders()):
        font = _opened(path, size - 1)
        if font is not None:
            yield font


@cache
def _paths(folders: tuple[Path, ...]) -> tuple[Path, ...]:
    """Return the font files of the machine in a fixed order, upright ones of usual weight first."""
    found = {
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part in path.name.lower().replace("-", "") for part in NO_FONTS)
    }
    return tuple(sorted(found, key=_rank)[:MAX_FONTS])


def _rank(path: Path) -> tuple[bool, str]:
    return "regular" not in path.name.lower(), str(path)


@cache
def _opened(path: Path, size: int) -> Font | None:
    """Return a font, None where Pillow cannot read the file."""
    try:
        return ImageFont.truetype(path, size)
    except (OSError, ValueError):  # broken, or a font of bitmaps in other sizes
        return None


def _has_all(font: Font, name: str) -> bool:
    """Say whether a font has a shape for every letter; spaces need none."""
    try:
        missing = bytes(font.getmask(_UNKNOWN))
        return all(bytes(font.getmask(letter)) != missing for letter in set(name) - {" "})
    except (OSError, ValueError):  # the file is cut off behind its tables
        return False
