"""The report's charts as SVG text: accuracies in lanes, and curves of a training run.

Accuracies are dots with whiskers, not bars: sets of images often differ by a point or two, which
bars that begin at zero would hide.
matplotlib only through `Figure`: no pyplot, so no state that is shared between calls.
"""

import math
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from distillery.evaluation.lanes import Lane
from distillery.evaluation.svg import ACCENT, INK, LINE, MUTED, OTHER, one_line, svg_element

WIDE_PX = 900
NARROW_PX = 340
MAX_POINTS = 300
_LABEL_LETTERS = 34


def lane_chart(lanes: Sequence[Lane], *, title: str, width_px: int = WIDE_PX) -> str:
    """Return lanes under one another on one percent axis, as SVG.

    Args:
        lanes: At least one row, drawn in this order.
        title: What the chart shows, for screen readers.
        width_px: Below 500, labels stand above their lanes.

    Raises:
        ValueError: If there is no lane.
    """
    if not lanes:
        raise ValueError("lanes must hold at least one row, got none")
    is_narrow = width_px < 500
    row_px = 46 if is_narrow else 32
    height = len(lanes) * row_px + 26
    figure, axes = _canvas(width_px, height)
    longest = max(len(one_line(lane.label, longest=_LABEL_LETTERS)) for lane in lanes)
    label_px = min(max(90.0, 8.5 * longest), width_px * 0.32)
    left, right = (20.0, width_px - 20.0) if is_narrow else (label_px, width_px - 120.0)
    ticks = _ticks(lanes, num_ticks=4 if is_narrow else 6)
    low, high = ticks[0], ticks[-1]

    def place(share: float) -> float:
        return left + (right - left) * (100 * share - low) / (high - low)

    stands_out = not all(lane.is_ours for lane in lanes)
    bottom = len(lanes) * row_px
    _grid(axes, ticks, bottom, place)
    for row, lane in enumerate(lanes):
        top = row * row_px
        middle = top + (34 if is_narrow else row_px / 2)
        text_y = top + 15 if is_narrow else middle
        label = one_line(lane.label, longest=_LABEL_LETTERS)
        weight = "bold" if lane.is_ours and stands_out else "normal"
        _text(axes, 0, text_y, label, weight=weight)
        _text(axes, width_px, text_y, _value(lane), align="right", weight=weight)
        axes.plot([left, right], [middle, middle], color=LINE, linewidth=1, zorder=0)
        _marks(axes, lane, middle, place)
    return svg_element(figure, title=title)


def _grid(
    axes: Axes, ticks: Sequence[float], bottom: float, place: Callable[[float], float]
) -> None:
    """Draw a line and a number for each tick of the percent axis."""
    for tick in ticks:
        x = place(tick / 100)
        axes.plot([x, x], [4, bottom], color=LINE, linewidth=1, zorder=0)
        _text(axes, x, bottom + 15, f"{tick:g} %", color=MUTED, size=11, align="center")


def _marks(axes: Axes, lane: Lane, y: float, place: Callable[[float], float]) -> None:
    """Draw one lane's whisker, runs and dots."""
    colour = ACCENT if lane.is_ours else OTHER
    if lane.reference is not None:
        x = place(lane.reference)
        axes.plot([x], [y], "o", ms=8, mfc="none", mec=OTHER, mew=1.5, zorder=2)
    if lane.mean is None:
        return
    if lane.std:
        ends = [place(max(0.0, lane.mean - lane.std)), place(min(1.0, lane.mean + lane.std))]
        axes.plot(ends, [y, y], color=colour, linewidth=6, solid_capstyle="round", alpha=0.25)
    for run in lane.runs:
        axes.plot([place(run)], [y], "o", ms=4, color=colour, alpha=0.7, mew=0)
    axes.plot([place(lane.mean)], [y], "o", ms=10 if lane.is_ours else 8, color=colour, mew=0)


def _value(lane: Lane) -> str:
    if lane.mean is None:
        return lane.note
    spread = "" if lane.std is None else f" \N{PLUS-MINUS SIGN} {100 * lane.std:.1f}"
    return f"{100 * lane.mean:.1f}{spread}"


def _ticks(lanes: Sequence[Lane], *, num_ticks: int) -> list[float]:
    """Return round percent values around everything that is drawn."""
    shares = [1.0] if all(lane.mean is None for lane in lanes) else []
    for lane in lanes:
        shares += lane.runs
        if lane.reference is not None:
            shares.append(lane.reference)
        if lane.mean is not None:
            std = lane.std or 0.0
            shares += [max(0.0, lane.mean - std), min(1.0, lane.mean + std)]
    low, high = 100 * min(shares), 100 * max(shares)
    if high - low < 2:  # a spread of nothing is not magnified into a landscape
        low, high = max(0.0, low - 1), min(100.0, high + 1)
    locator = MaxNLocator(nbins=num_ticks, steps=[1, 2, 5, 10])
    # float noise must not open a tick interval above 100 %
    values = [float(tick) for tick in locator.tick_values(round(low, 6), round(high, 6))]
    return [tick for tick in values if -1e-9 <= tick <= 100 + 1e-9]


def line_chart(
    values: Sequence[float],
    steps: Sequence[float] | None = None,
    *,
    title: str,
    width_px: int = NARROW_PX,
    height_px: int = 190,
) -> str:
    """Return one curve as SVG: every point faintly, and a running mean over a tenth of them.

    Args:
        values: One number per step; those that are not finite are left out.
        steps: Where each value stands; counted from 0 where None or of another length.
        title: Written above the curve.
        width_px: Width of the drawing.
        height_px: Height of the drawing.

    Raises:
        ValueError: If no value is finite.
    """
    points = _points(values, steps)
    x, y = [point[0] for point in points], [point[1] for point in points]
    figure = Figure(figsize=(width_px / 72, height_px / 72), facecolor="none")
    axes = figure.add_axes((0.15, 0.14, 0.82, 0.7), facecolor="none")
    axes.plot(x, y, color=ACCENT, linewidth=1, alpha=0.3)
    axes.plot(x, _running_mean(y), color=ACCENT, linewidth=2)
    axes.set_title(one_line(title, longest=40), loc="left", size=13, color=INK, pad=10)
    axes.title.set_parse_math(False)
    axes.grid(axis="y", color=LINE, linewidth=1)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(LINE)
    axes.tick_params(length=0, colors=MUTED, labelsize=11)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
    return svg_element(figure, title=title)


def _points(values: Sequence[float], steps: Sequence[float] | None) -> list[tuple[float, float]]:
    """Return at most `MAX_POINTS` pairs of step and finite value."""
    if steps is None or len(steps) != len(values):
        steps = range(len(values))
    pairs = zip(steps, values, strict=True)
    points = [(float(s), float(v)) for s, v in pairs if v is not None and math.isfinite(v)]
    if not points:
        raise ValueError("values must hold at least one finite number")
    return points[:: math.ceil(len(points) / MAX_POINTS)]


def _running_mean(values: Sequence[float]) -> list[float]:
    """Return the mean of the values around each place; the first stays as it is."""
    reaches = (min(len(values) // 20, i) for i in range(len(values)))
    windows = (values[i - reach : i + reach + 1] for i, reach in enumerate(reaches))
    return [sum(window) / len(window) for window in windows]


def _canvas(width_px: float, height_px: float) -> tuple[Figure, Axes]:
    """Return a figure whose one pair of axes counts in pixels, from the top left."""
    figure = Figure(figsize=(width_px / 72, height_px / 72), facecolor="none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width_px)
    axes.set_ylim(height_px, 0)
    axes.set_axis_off()
    return figure, axes


def _text(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    *,
    color: str = INK,
    size: float = 13,
    align: str = "left",
    weight: str = "normal",
) -> None:
    axes.text(
        x,
        y,
        text,
        color=color,
        fontsize=size,
        ha=align,
        va="center",
        fontweight=weight,
        parse_math=False,
    )
