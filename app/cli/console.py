"""Where text for people goes, and how text from files is made safe to print.

Results and data go to stdout, everything else to stderr, so that a pipe carries data only.
"""

import sys
from typing import TYPE_CHECKING

from app.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 160
"""Columns where there is no terminal: a file or a log need not be folded."""


def out(settings: Settings) -> "Console":
    """Return the console of stdout."""
    return _console(settings, to_stderr=False)


def err(settings: Settings) -> "Console":
    """Return the console of stderr."""
    return _console(settings, to_stderr=True)


def _console(settings: Settings, *, to_stderr: bool) -> "Console":
    from rich.console import Console  # here, so that --help starts fast

    is_terminal = (sys.stderr if to_stderr else sys.stdout).isatty()
    return Console(
        stderr=to_stderr, no_color=not settings.use_color, highlight=False, markup=False,
        emoji=False, width=None if is_terminal else PIPE_WIDTH,
    )  # fmt: skip


def clean(text: object) -> str:
    """Return text without control characters: names in files must not steer a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))


def size_text(size_bytes: float) -> str:
    """Return a number of bytes for a person."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= factor:
            value = size_bytes / factor
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{size_bytes:.0f} B"


def time_text(seconds: float) -> str:
    """Return a duration for a person: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 10 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    minutes = round(whole / 60)
    return f"{minutes // 60} h {minutes % 60} min"
