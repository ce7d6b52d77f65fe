"""Small charts as SVG, each with its numbers as a table. Colours are classes of `page.css`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from taro.view.html import escape

WIDTH, HEIGHT = 340, 190  # of the drawing: about a phone's, so that its text is not scaled down there
LEFT, RIGHT, TOP, BOTTOM = 44, 22, 8, 34  # margins; half of a label of six digits is right of the last place
MOST_POINTS = 300  # of a line
COLOURS = 6  # classes run0, run1, ... and key0, key1, ...; `again`, with dashes, where they come round again

Interval = tuple[float, float]
Format = Callable[[float], str]


@dataclass(frozen=True)
class Series:
    """Values of one run, or of one name; nan where there is none.

    Attributes:
        name: in the key.
        values: one for each label, or for each x.
        intervals: of the values, where they have one.
    """

    name: str
    values: Sequence[float]
    intervals: Sequence[Interval] | None = None


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def number(value: float) -> str:
    return f"{value:.3g}"


def bar_chart(title: str, labels: Sequence[str], series: Sequence[Series], show: Format = percent, note: str = "") -> str:
    """Bars beside each other for each label."""
    drawn = [value for one in series for value in [*one.values, *(end for ends in one.intervals or () for end in ends)]]
    bottom, top = min([0.0, *(value for value in drawn if not math.isnan(value))]), _top(drawn)
    zero = _y(0.0, bottom, top)
    slot = (WIDTH - LEFT - RIGHT) / max(1, len(labels))
    width = min(0.8 * slot / len(series), 40)
    parts = [*_grid(bottom, top, show)]
    for k, label in enumerate(labels):
        middle = LEFT + (k + 0.5) * slot
        parts.append(_label(middle, label, len(labels)))
        for place, one in enumerate(series):
            value = one.values[k]
            if math.isnan(value):
                continue
            x = middle + (place - len(series) / 2) * width
            y = _y(value, bottom, top)
            said = f"{label}{f', {one.name}' if len(series) > 1 else ''}: {show(value)}"
            parts.append(
                f'<rect class="{_colour("run", place)}" x="{x:.1f}" y="{min(y, zero):.1f}" width="{max(1, width - 1):.1f}" '
                f'height="{abs(zero - y):.1f}"><title>{escape(said)}</title></rect>'
            )
            if one.intervals is not None:
                low, high = (_y(end, bottom, top) for end in one.intervals[k])
                parts.append(f'<path class="error" d="M{x + width / 2:.1f} {low:.1f}V{high:.1f}"/>')
    return _figure(title, parts, series, _table(title, labels, series, show), note)


def line_chart(
    title: str, places: Sequence[float], series: Sequence[Series], show: Format = percent, axis: str = "", note: str = ""
) -> str:
    """Lines over numbers in ascending order."""
    finite = [value for one in series for value in one.values if not math.isnan(value)]
    bottom, top = min([0.0, *finite]), _top(finite)
    first, last = places[0], places[-1]
    parts = [*_grid(bottom, top, show)]
    for share in (0, 0.25, 0.5, 0.75, 1):
        at = first + share * (last - first)
        parts.append(_label(_x(at, first, last), f"{at:g}" if at == int(at) or last <= 1 else f"{at:.0f}", 5))
    if axis:
        parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{escape(axis)}</text>')
    for k, one in enumerate(series):
        points = _thin([(x, y) for x, y in zip(places, one.values, strict=True) if not math.isnan(y)])
        path = " ".join(f"{_x(x, first, last):.1f},{_y(y, bottom, top):.1f}" for x, y in points)
        parts.append(f'<polyline class="{_colour("run", k)} line" points="{path}"/>')
        if len(points) == 1:
            x, y = _x(points[0][0], first, last), _y(points[0][1], bottom, top)
            parts.append(f'<circle class="{_colour("run", k)}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>')
    shown = range(0, len(places), math.ceil(len(places) / MOST_POINTS))
    rows = [f"{places[k]:g}" for k in shown]
    listed = [Series(one.name, [one.values[k] for k in shown]) for one in series]
    return _figure(title, parts, series, _table(title, rows, listed, show), note)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """A table; all of it is text, the first cell of a row its head. It scrolls sideways where it is too wide."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    cells = ["".join(f"<td>{escape(cell)}</td>" for cell in row[1:]) for row in rows]
    body = "".join(f'<tr><th scope="row">{escape(row[0])}</th>{rest}</tr>' for row, rest in zip(rows, cells, strict=True))
    said = escape(caption)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{said}"><table><caption>{said}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _figure(title: str, parts: Sequence[str], series: Sequence[Series], numbers: str, note: str) -> str:
    keys = [f'<span><i class="key {_colour("key", k)}"></i>{escape(one.name)}</span>' for k, one in enumerate(series)]
    key = f'<div class="keys">{"".join(keys)}</div>' if len(series) > 1 else ""
    said = f'<p class="faint">{escape(note)}</p>' if note else ""
    drawing = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    return (
        f'<section class="chart"><h3>{escape(title)}</h3>{key}{drawing}{said}'
        f"<details><summary>the numbers</summary>{numbers}</details></section>"
    )


def _table(title: str, labels: Sequence[str], series: Sequence[Series], show: Format) -> str:
    rows = [[label, *(_cell(one, k, show) for one in series)] for k, label in enumerate(labels)]
    return table(["of", *(one.name for one in series)], rows, title)


def _cell(one: Series, k: int, show: Format) -> str:
    if math.isnan(one.values[k]):
        return "–"
    ends = "" if one.intervals is None else f" ({show(one.intervals[k][0])} to {show(one.intervals[k][1])})"
    return show(one.values[k]) + ends


def _colour(kind: str, k: int) -> str:
    return f"{kind}{k % COLOURS}{' again' if k >= COLOURS else ''}"


def _grid(bottom: float, top: float, show: Format) -> list[str]:
    parts = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        value = bottom + share * (top - bottom)
        y, name = _y(value, bottom, top), show(value).replace(".0 %", " %")
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 4}" y="{y + 4:.1f}" text-anchor="end">{escape(name)}</text>')
    return parts


def _label(x: float, text: str, count: int) -> str:
    """Below the axis; turned a little where many stand side by side."""
    y = HEIGHT - BOTTOM + 14
    turn = f' transform="rotate(-30 {x:.1f} {y})" text-anchor="end"' if count > 6 and len(text) > 3 else ' text-anchor="middle"'
    return f'<text x="{x:.1f}" y="{y}"{turn}>{escape(text)}</text>'


def _x(value: float, first: float, last: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * ((value - first) / (last - first) if last > first else 0.5)


def _y(value: float, bottom: float, top: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - bottom) / (top - bottom)


def _top(values) -> float:
    """A round number that none exceeds."""
    largest = max((value for value in values if not math.isnan(value)), default=0.0)
    if largest <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(largest))
    return next(factor * power for factor in (1, 2, 4, 6, 8, 10) if factor * power >= largest * (1 - 1e-9))


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most MOST_POINTS: means of as many neighbours."""
    each = math.ceil(len(points) / MOST_POINTS) or 1
    chunks = (points[k : k + each] for k in range(0, len(points), each))
    return [(sum(x for x, _ in chunk) / len(chunk), sum(y for _, y in chunk) / len(chunk)) for chunk in chunks]
