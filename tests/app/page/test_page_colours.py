"""Text can be read on every ground that it stands on, in light and in dark (WCAG 2.2, 1.4.3)."""

import re
from pathlib import Path

import pytest

CSS = Path(__file__).parents[3] / "app" / "page" / "static" / "page.css"
PAIRS = [
    *((text, ground) for text in ("ink", "muted") for ground in ("ground", "card", "sunk", "line")),
    *((text, ground) for text in ("accent", "good", "bad", "flat") for ground in ("card", "sunk")),
    *((text, "ground") for text in ("accent", "good", "bad", "flat")),
    ("accent", "tint"), ("good", "good-tint"), ("bad", "bad-tint"), ("flat", "flat-tint"),
    ("ink", "bad-tint"), ("ink", "flat-tint"), ("on-accent", "accent-fill"),
    ("on-accent", "accent-hover"), ("ground", "ink"),
]  # fmt: skip


def colours() -> dict[str, tuple[str, str]]:
    found = {}
    for name, value in re.findall(r"--([\w-]+): ([^;]+);", CSS.read_text()):
        hexes = re.findall(r"#[0-9a-f]{6}", value)
        if hexes:
            found[name] = (hexes[0], hexes[-1])
    return found


def luminance(colour: str) -> float:
    shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(("text", "ground"), PAIRS)
def test_contrast(text: str, ground: str, scheme: int) -> None:
    known = colours()
    pair = luminance(known[text][scheme]), luminance(known[ground][scheme])
    ratio = (max(pair) + 0.05) / (min(pair) + 0.05)
    assert ratio >= 4.5, f"{text} on {ground}: {ratio:.2f}"
