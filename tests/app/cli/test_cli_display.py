"""Progress on a pipe: few lines for people, JSON lines for machines, no escapes from names."""

import io
import json
from pathlib import Path

import pytest

from app.cli.bars import Bars
from app.cli.console import clean, size_text, time_text
from app.cli.display import Events, Lines
from app.cli.tracker import Tracker
from distillery.progress import Progress
from generator.stage import Finished

STAGES = ["prepare", "base"]


def finished(name: str, *, was_cached: bool = False, summary: str = "done") -> Finished:
    return Finished(name, Path(), {"seconds": 2.0, "summary": summary}, was_cached)


def test_lines_are_few_and_end_with_the_stage() -> None:
    file = io.StringIO()
    lines = Lines(Tracker(STAGES, {}), file)
    for step in range(1000):  # in no time at all, so nothing is due but the end
        lines.on_progress(Progress("prepare", step, 1000))
    lines.on_stage(finished("prepare", summary="3 images"))
    lines.on_stage(finished("base", was_cached=True))
    assert file.getvalue().splitlines() == [
        "prepare: 2.0 s; 3 images",
        "base: done before; done",
    ]


def test_a_line_is_written_at_each_tenth(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    file = io.StringIO()
    lines = Lines(Tracker(STAGES, {}, lambda: now[0]), file)
    for step in range(1, 101):
        now[0] += 1.0
        lines.on_progress(Progress("base", step, 100, "learning", {"loss": 0.25}))
    written = file.getvalue().splitlines()
    assert len(written) == 10
    assert written[1].startswith("base: 20/100, about 1 min 20 s left, learning, loss 0.25 (job")


def test_events_are_json_lines_with_finite_numbers() -> None:
    file, now = io.StringIO(), [0.0]
    events = Events(Tracker(STAGES, {}), file, lambda: now[0])
    for step in range(11):
        events.on_progress(Progress("base", step, 10, "x\n\x1b[31m", {"loss": float("nan")}))
    events.on_stage(finished("base", summary="naïve\n"))
    lines = [json.loads(line) for line in file.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["progress", "progress", "stage"]
    assert [line["step"] for line in lines[:2]] == [0, 10]  # the first and the last
    assert lines[0]["metrics"] == {"loss": None}
    assert lines[2]["summary"] == "naïve\n" and lines[2]["overall"] == 0.5
    assert file.getvalue().isascii() and "\x1b" not in file.getvalue()


def test_bars_show_the_phase_and_the_whole() -> None:
    from rich.console import Console

    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    bars = Bars(Tracker(STAGES, {}), console)
    bars.on_progress(Progress("prepare", 1, 4, "decoding \x1b[2J images"))
    with console.capture() as capture:
        console.print(bars._render())
    text = capture.get()
    assert "prepare" in text and "25 %" in text and "overall" in text and "12 %" in text
    assert "\x1b[2J" not in text
    assert max(map(len, text.splitlines())) <= 80
    with console.capture() as capture:
        bars.on_stage(finished("prepare", summary="[red]brackets[/red] " + "long " * 30))
    assert "[red]brackets[/red]" in capture.get()  # no markup is read from a summary


def test_text_from_files_cannot_steer_a_terminal() -> None:
    assert clean("a\x1b]0;title\x07b\u202ec\n") == "a�]0;title�b�c�"
    assert clean("Größe 猫") == "Größe 猫"


def test_numbers_for_people() -> None:
    assert [time_text(s) for s in (0.04, 9.94, 9.96, 59.6, 61, 3600, 7799, 90000)] == [
        "0.0 s", "9.9 s", "10 s", "1 min", "1 min 1 s", "1 h 0 min", "2 h 10 min", "25 h 0 min",
    ]  # fmt: skip
    assert [size_text(b) for b in (999, 2.5e6, 12e9)] == ["999 B", "2.5 MB", "12 GB"]
