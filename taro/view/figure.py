"""The timeline as a figure of matplotlib, for TensorBoard, papers and documents."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, pairwise
from typing import TYPE_CHECKING

from taro.view.frames import decode_jpeg
from taro.view.timeline import Timeline, TokenGap, Track, ViewError, ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# As in timeline.css.
TRUTH, BAND, LOW, MID, HIGH, TEXT, FAINT = "#1d7a3e", "#d6e7db", "#c2410c", "#8f6a00", "#0f6fae", "#1b2430", "#4c5866"
WIDTH = 9.0  # inches
LANE, LINE = 0.3, 0.17  # inches
MOST_ROWS = 60  # of one completion: one of line breaks alone would make a picture of hundreds of MB
STRENGTH = 0.4  # of the strongest colour of a token
MONOSPACE = 0.602  # width of a character of DejaVu Sans Mono, of its size


def draw_timeline(timeline: Timeline, title: str = "", texts: int = 1) -> Figure:
    """
    Args:
        timeline: what is drawn.
        title: above it.
        texts: the completions of so many tracks, from the top, stand below it, the first MOST_ROWS rows of each.

    Raises:
        ViewError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ViewError("figures need matplotlib: pip install matplotlib") from None
    said = [track for track in timeline.tracks if track.text is not None][:texts]
    columns = int(WIDTH * 0.96 * 72 / (8 * MONOSPACE))
    lines = [_first_rows(track, columns) for track in said]
    picture = None if timeline.strip is None else decode_jpeg(timeline.strip)
    plot = WIDTH * 0.74
    heights = [
        0.0 if picture is None else plot * picture.shape[0] / picture.shape[1],
        LANE * max(1, bool(timeline.truths) + len(timeline.tracks)),
        *(LINE * (len(rows) + 1) for rows in lines),
    ]
    gaps = 0.35 if title else 0.08
    total = gaps + sum(heights) + 0.35 + 0.1 * len(lines)
    figure = Figure(figsize=(WIDTH, total), facecolor="white")
    if title:
        figure.text(0.02, 1 - 0.2 / total, title, fontsize=11, color=TEXT, va="center", parse_math=False)
    top = total - gaps
    if picture is not None:
        axes = figure.add_axes((0.13, (top - heights[0]) / total, 0.74, heights[0] / total))
        axes.imshow(picture, aspect="auto")
        axes.axis("off")
    top -= heights[0]
    _draw_lanes(figure.add_axes((0.13, (top - heights[1]) / total, 0.74, heights[1] / total)), timeline)
    top -= heights[1] + 0.35
    for track, rows, height in zip(said, lines, heights[2:], strict=True):
        _draw_text(figure.add_axes((0.02, (top - height) / total, 0.96, height / total)), track, rows, columns)
        top -= height + 0.1
    return figure


def colour_of(score: float) -> tuple[float, float, float]:
    """From LOW over MID to HIGH, RGB in [0, 1]."""
    value = min(1.0, max(0.0, score))
    ends, share = ((LOW, MID), 2 * value) if value < 0.5 else ((MID, HIGH), 2 * value - 1)
    first, last = ([int(end[k : k + 2], 16) / 255 for k in (1, 3, 5)] for end in ends)
    return tuple((1 - share) * a + share * b for a, b in zip(first, last, strict=True))


def _draw_lanes(axes: Axes, timeline: Timeline) -> None:
    length, above = timeline.length, ["truth"] if timeline.truths else []
    labels = [*above, *(track.label for track in timeline.tracks)]
    for start, end in timeline.truths:
        axes.axvspan(min(start, end), max(start, end), color=BAND, lw=0, zorder=0)
        axes.barh(0, end - start, left=start, height=0.55, color=TRUTH)
    for row, track in enumerate(timeline.tracks, start=len(above)):
        if track.span is not None:
            start, end = sorted(track.span)
            backwards = track.span[0] > track.span[1]
            colour = colour_of(track.score)
            style = {"hatch": "////", "fill": False, "edgecolor": colour} if backwards else {"color": colour}
            axes.barh(row, max(end - start, 0.003 * length), left=start, height=0.55, **style)
        else:
            axes.text(0.01 * length, row, "no answer", va="center", fontsize=8, color=FAINT)
        times = sorted({time.seconds for time in track.times if time.seconds <= length})
        axes.plot(times, [row + 0.42] * len(times), "^", color=TEXT, ms=4, clip_on=False)
        axes.text(1.01 * length, row, track.note, va="center", fontsize=8, color=FAINT, parse_math=False)
    axes.set_xlim(0, length)
    axes.set_ylim(max(1, len(labels)) - 0.5, -0.5)
    axes.set_yticks(range(len(labels)), labels, fontsize=8, parse_math=False)
    axes.set_xticks(ticks(length), [f"{time:g}" + (" s" if time == 0 else "") for time in ticks(length)], fontsize=8)
    axes.tick_params(length=2, colors=TEXT)
    for name, side in axes.spines.items():
        side.set_visible(name == "bottom")


Piece = tuple[int, str, "TokenGap | None"]  # column, text, gap


def _first_rows(track: Track, columns: int) -> list[list[Piece]]:
    rows = list(islice(_wrap(track, columns), MOST_ROWS + 1))
    return rows if len(rows) <= MOST_ROWS else [*rows[:MOST_ROWS], [(0, "... (the rest is not drawn)", None)]]


def _wrap(track: Track, columns: int) -> Iterator[list[Piece]]:
    """Lines of a completion in a font of one width: pieces of one token each."""
    text = track.text or ""
    cuts = sorted({0, len(text), *(end for gap in track.gaps for end in (gap.start, gap.end) if end <= len(text))})
    gap_at = {gap.start: gap for gap in track.gaps}
    line: list[Piece] = []
    column = 0
    for start, end in pairwise(cuts):
        for part in text[start:end].splitlines(keepends=True):
            shown = part.rstrip("\r\n").expandtabs()
            while shown:
                if column + len(shown) > columns and column and (len(shown) <= columns or column >= columns):
                    yield line
                    line, column = [], 0
                room = columns - column
                line.append((column, shown[:room], gap_at.get(start)))
                column += len(shown[:room])
                shown = shown[room:]
            if part != part.rstrip("\r\n"):
                yield line
                line, column = [], 0
    if line:
        yield line


def _draw_text(axes: Axes, track: Track, rows: list[list[Piece]], columns: int) -> None:
    from matplotlib.patches import Rectangle

    largest = track.largest_gap
    axes.set_xlim(0, columns)
    axes.set_ylim(len(rows) + 0.5, -0.5)
    axes.axis("off")
    head = f"{track.label} says"
    if track.gaps and largest > 0:
        head += f"; blue: less likely with shuffled frames, red: more likely, at most {largest:.2f} nats"
    axes.text(0, 0, head, fontsize=8, color=FAINT, va="center", parse_math=False)
    for number, row in enumerate(rows, start=1):
        for column, text, gap in row:
            if gap is not None and largest > 0:
                strength = STRENGTH * min(1.0, abs(gap.gap) / largest)
                colour = HIGH if gap.gap > 0 else LOW
                axes.add_patch(Rectangle((column, number - 0.5), len(text), 1, color=colour, alpha=strength, lw=0))
            if text.strip():
                style = {"fontsize": 8, "family": "DejaVu Sans Mono", "color": TEXT, "va": "center"}
                axes.text(column, number, text, parse_math=False, **style)
