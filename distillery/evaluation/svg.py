"""A matplotlib figure as an SVG element of the report's page.

Colours become CSS variables of the page (with fallbacks), so that one chart serves light and dark;
text stays text, in the page's font and in any script; nothing refers to anything outside.
"""

import hashlib
import io
import re
import unicodedata
import warnings

import matplotlib
from matplotlib.figure import Figure

# Drawn in a stand-in colour, then written as the page's variable with its light value.
INK, MUTED, LINE, ACCENT, OTHER = "#010101", "#020202", "#030303", "#040404", "#050505"
_VARIABLES = {
    INK: "var(--ink, #1a1d21)",
    MUTED: "var(--muted, #626a73)",
    LINE: "var(--line, #e3e5e8)",
    ACCENT: "var(--accent, #2457d6)",
    OTHER: "var(--other, #7b8694)",
}


def one_line(text: str, *, longest: int) -> str:
    """Return text that XML can hold, on one line, cut with an ellipsis."""
    unwanted = ("Cc", "Cs", "Cn", "Co", "Zl", "Zp")
    kept = (" " if unicodedata.category(letter) in unwanted else letter for letter in text)
    line = " ".join("".join(kept).split())
    return (
        line if len(line) <= longest else line[: longest - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"
    )


def svg_element(figure: Figure, *, title: str) -> str:
    """Return the figure as an SVG element for a page: scalable, named, without outside links."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with (
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "distillery"}),
        warnings.catch_warnings(),
    ):
        # the browser's fonts draw the text; what matplotlib's own lacks does not matter
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(buffer, format="svg", metadata=nothing, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    # the same ids in two charts of one page would be the same thing to the browser
    prefix = "c" + hashlib.sha256(text.encode()).hexdigest()[:8]
    text = re.sub(r"<[^>]*>", lambda tag: _page_tag(tag[0], prefix), text)
    width, height = figure.get_size_inches() * 72
    name = re.sub(r"[&<>\"]", " ", one_line(title, longest=120))
    head = (
        f'<svg role="img" aria-label="{name}" viewBox="0 0 {width:g} {height:g}" '
        f'style="max-width: {width:g}px" xmlns="http://www.w3.org/2000/svg" '
        'xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    return re.sub(r"<svg[^>]*>", head, text, count=1).strip()


def _page_tag(tag: str, prefix: str) -> str:
    """Return one tag with the page's colours and font, and ids of its own."""
    for stand_in, variable in _VARIABLES.items():
        tag = tag.replace(f": {stand_in}", f": {variable}")
    tag = re.sub(r"(font: [^;]*?px) [^;\"]*", r"\1 var(--font, sans-serif)", tag)
    return re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{prefix}-", tag)
