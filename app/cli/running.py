"""What verbs that work for long share: a display, a stop on Ctrl-C, a log for crashes."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from app.cli.console import err
from app.cli.display import Display, Events, Lines, write_event
from app.cli.failures import crash, is_expected, sentence
from app.cli.stop import StopRequest
from app.cli.tracker import Tracker
from app.settings import Settings
from distillery.errors import Cancelled
from distillery.progress import Progress

if TYPE_CHECKING:
    from generator.stage import Finished

GO_ON = "what is done is kept: repeat the same command to go on"


class OutputClosed(Cancelled):
    """Whoever read our output has gone."""


class Reporter:
    """Hands reports to a display; the place where work is asked to stop."""

    def __init__(self, display: Display, stop: StopRequest) -> None:
        self._display, self._stop = display, stop

    def on_progress(self, progress: Progress) -> None:
        """Show a report; raises `Cancelled` where a stop was asked for."""
        _guarded(lambda: self._display.on_progress(progress))
        self._stop.check()

    def on_stage(self, finished: "Finished") -> None:
        """Show a complete stage."""
        _guarded(lambda: self._display.on_stage(finished))


def _guarded(show: Callable[[], None]) -> None:
    """Show progress; where nobody reads any more, stop as on Ctrl-C, at a safe point."""
    try:
        show()
    except BrokenPipeError as error:
        raise OutputClosed(f"the output was closed, so the work stopped; {GO_ON}") from error


@contextmanager
def with_display(
    stages: Sequence[str], expected_s: Mapping[str, float], settings: Settings, *, as_json: bool
) -> Iterator[Reporter]:
    """Show progress while the body works, and turn signals into a stop at a safe point."""
    display = make_display(stages, expected_s, settings, as_json=as_json)
    try:
        with StopRequest() as stop, display:
            yield Reporter(display, stop)
    except OutputClosed:
        raise
    except Cancelled as error:
        raise Cancelled(f"stopped; {GO_ON}") from error


def make_display(
    stages: Sequence[str], expected_s: Mapping[str, float], settings: Settings, *, as_json: bool
) -> Display:
    """Return bars on a terminal, lines elsewhere, JSON where asked for."""
    tracker = Tracker(stages, expected_s)
    if as_json:
        return Events(tracker)
    console = err(settings)
    if console.is_terminal and not console.is_dumb_terminal:
        from app.cli.bars import Bars

        return Bars(tracker, console)
    return Lines(tracker, sys.stderr)


@contextmanager
def crashes_logged(folders: Sequence[Path]) -> Iterator[None]:
    """Put the traceback of an unexpected error into the first folder that takes it."""
    try:
        yield
    except Exception as error:
        if is_expected(error):
            raise
        raise crash(error, list(folders)) from error


@contextmanager
def json_errors(as_json: bool) -> Iterator[None]:
    """Where JSON was asked for, say on stdout too why the work ended."""
    try:
        yield
    except Exception as error:
        if as_json and not isinstance(error, OutputClosed | BrokenPipeError):
            write_event("error", {"kind": type(error).__name__, "message": sentence(error)})
        raise
