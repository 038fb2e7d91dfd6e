"""Figures and times as a reader of the page says them.

Every text that comes from a job (names, classes, messages) is escaped by the templates; these
functions return plain text.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

DASH = "\N{EN DASH}"
THIN = "\N{NO-BREAK SPACE}"


def duration(seconds: float | None) -> str:
    """Return a time span: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 10 min`, `3 d 4 h`."""
    if seconds is None:
        return DASH
    if seconds < 9.95:
        return f"{max(seconds, 0.0):.1f}{THIN}s"
    whole = round(seconds)
    for above, unit, below, name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if whole >= above:
            rest = whole % above // below
            return f"{whole // above}{THIN}{unit}" + (f" {rest}{THIN}{name}" if rest else "")
    if whole < 60:
        return f"{whole}{THIN}s"
    return f"{whole // 60}{THIN}min" + (f" {whole % 60}{THIN}s" if whole % 60 else "")


def remaining(seconds: float | None) -> str:
    """Return how long something will take, no finer than it can be known."""
    if seconds is None:
        return ""
    if seconds < 5:
        return "a few seconds left"
    if seconds < 60:
        return f"about {5 * round(seconds / 5)}{THIN}s left"
    if seconds < 3600:
        return f"about {round(seconds / 60)}{THIN}min left"
    return f"about {seconds / 3600:.1f}{THIN}h left"


def size(num_bytes: float | None) -> str:
    """Return a number of bytes: `512 B`, `13 kB`, `1.4 MB`, `19 GB`."""
    if num_bytes is None:
        return DASH
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= factor:
            value = num_bytes / factor
            return f"{value:.1f}{THIN}{unit}" if value < 9.95 else f"{value:.0f}{THIN}{unit}"
    return f"{num_bytes:.0f}{THIN}B"


def ago(then: datetime | None, now: datetime) -> str:
    """Return how long ago something was: `just now`, `5 min ago`, `yesterday`, `12 Nov 2026`."""
    if then is None:
        return DASH
    seconds = (now - aware(then)).total_seconds()
    if seconds < 45:
        return "just now"
    if seconds < 3570:
        return f"{max(round(seconds / 60), 1)}{THIN}min ago"
    if seconds < 86400:
        return f"{round(seconds / 3600)}{THIN}h ago"
    if seconds < 2 * 86400:
        return "yesterday"
    if seconds < 14 * 86400:
        return f"{int(seconds // 86400)} days ago"
    return f"{then.day} {then:%b %Y}"


def aware(moment: datetime) -> datetime:
    """Return a moment with its zone; those without one are UTC."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def stamp(moment: datetime | None) -> str:
    """Return a moment as machines read it in a `time` element."""
    if moment is None:
        return ""
    return aware(moment).astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def clock(moment: datetime | None) -> str:
    """Return a moment in UTC for a reader without scripts; with them it becomes local."""
    if moment is None:
        return DASH
    return f"{aware(moment).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def count(number: int, noun: str) -> str:
    """Return a number with its noun, thousands apart."""
    plural = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,}{THIN}{noun}{plural}"


def accuracy_text(value: Any) -> str:
    """Return an accuracy in per cent; it may be a share or a mean with its spread."""
    if isinstance(value, Mapping):
        value = value.get("mean")
    return DASH if value is None else f"{100 * value:.1f}{THIN}%"
