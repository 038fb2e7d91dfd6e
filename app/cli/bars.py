"""Progress on a terminal: finished stages scroll up, two bars stay at the bottom.

One bar is the phase that runs, the other the whole job, each with the time left.
"""

from typing import TYPE_CHECKING, Any

from app.cli.console import clean, time_text
from app.cli.display import metrics_text
from app.cli.tracker import Standing, Tracker
from distillery.progress import Progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from generator.stage import Finished

NAME_WIDTH = 9
REFRESH_PER_S = 4
"""Each redraw takes time from the computation."""


class Bars:
    """A live display on a rich console."""

    def __init__(self, tracker: Tracker, console: "Console") -> None:
        from rich.live import Live

        self._tracker, self._console = tracker, console
        self._standing: Standing | None = None
        self._figures = ""
        self._live = Live(
            console=console, get_renderable=self._render, refresh_per_second=REFRESH_PER_S,
            transient=True,
        )  # fmt: skip

    def __enter__(self) -> "Bars":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def on_progress(self, progress: Progress) -> None:
        """Keep the report for the next redraw."""
        self._figures = metrics_text(progress)
        self._standing = self._tracker.update(progress)

    def on_stage(self, finished: "Finished") -> None:
        """Print the finished stage above the bars."""
        record = finished.record
        self._standing = self._tracker.finish(
            finished.name, record["seconds"], was_cached=finished.was_cached
        )
        took = "before" if finished.was_cached else time_text(record["seconds"])
        self._console.print(stage_line(finished.name, took, record["summary"]))

    def _render(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        standing = self._standing
        if standing is None:
            return Text("  starting ...", style="dim")
        lines: list[Any] = []
        if standing.phase:
            lines.append(_bar(standing.phase, standing.share, standing.phase_left_s))
            about = "; ".join(text for text in (clean(standing.message), self._figures) if text)
            if about:
                indent = " " * (NAME_WIDTH + 3)
                lines.append(Text(indent + about, style="dim", no_wrap=True, overflow="ellipsis"))
        lines.append(_bar("overall", standing.overall, standing.left_s))
        return Group(*lines)


def stage_line(name: str, took: str, summary: str) -> "Table":
    """Return the line of a finished stage; a long summary wraps under itself."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=1)
    grid.add_column(width=NAME_WIDTH)
    grid.add_column(width=11, justify="right")
    grid.add_column(overflow="fold")
    grid.add_row(Text("✓", style="green"), name, Text(took, style="cyan"), Text(clean(summary)))
    return grid


def _bar(name: str, share: float, left_s: float | None) -> "Table":
    """Return a bar with its name, share and time left, as wide as the terminal."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(width=1)
    grid.add_column(width=NAME_WIDTH)
    grid.add_column(ratio=1)
    grid.add_column(width=5, justify="right")
    grid.add_column(width=16)
    left = "" if left_s is None else f"{time_text(left_s)} left"
    style = "bold" if name == "overall" else ""
    bar = ProgressBar(total=1.0, completed=share)
    grid.add_row("", Text(name, style=style), bar, f"{100 * share:.0f} %", Text(left, style="cyan"))
    return grid
