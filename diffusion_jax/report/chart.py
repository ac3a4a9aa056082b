"""Charts: lines over an axis, as SVG that needs no library."""

import dataclasses
import json
import math
from collections.abc import Sequence

from diffusion_jax.report.axis import Axis, format_number
from diffusion_jax.report.html import Html, element, join

__all__ = ["Chart", "Line", "draw_chart"]

Point = tuple[float, float]

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 12, 30
# Points of a line beyond which it is thinned, and up to which each has a mark.
_MOST_POINTS, _MOST_MARKS = 800, 30


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a chart: the points (x, y) in the order of x, with NaN where there is no value.

    `style` is a class of page.css, such as "run1" or "run1 dashed".
    """

    name: str
    points: Sequence[Point]
    style: str


@dataclasses.dataclass(frozen=True)
class Chart:
    """A chart. With `categories`, x counts them from 0; otherwise it is the step."""

    title: str
    lines: Sequence[Line]
    x: Axis
    y: Axis
    categories: Sequence[str] = ()


def draw_chart(chart: Chart) -> Html:
    """The chart as a figure with its legend. page.js shows the values under the pointer."""
    labels = json.dumps(list(chart.categories)) if chart.categories else None
    svg = element(
        "svg",
        _draw_ticks(chart),
        *(_draw_line(line, chart) for line in chart.lines),
        element("line", class_="ruler", x1=0, x2=0, y1=TOP, y2=HEIGHT - BOTTOM),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=chart.title,
        data_labels=labels,
    )
    plot = element("div", svg, element("div", class_="tip"), class_="plot")
    legend = element("ul", *(_legend_entry(line) for line in chart.lines), class_="legend")
    return element("figure", element("figcaption", chart.title), plot, legend, class_="chart")


def _draw_ticks(chart: Chart) -> Html:
    names = list(enumerate(chart.categories))
    parts = [element("text", "log-SNR" if names else "step", class_="tick name", x=LEFT - 8, y=HEIGHT - BOTTOM + 18)]
    parts += [_draw_x_tick(value, text, chart) for value, text in names or chart.x.ticks()]
    parts += [_draw_y_tick(value, text, chart) for value, text in chart.y.ticks()]
    return join(*parts)


def _draw_x_tick(value: float, text: str, chart: Chart) -> Html:
    x, bottom = _x(value, chart), HEIGHT - BOTTOM
    mark = element("line", class_="grid", x1=x, x2=x, y1=bottom, y2=bottom + 4)
    return join(mark, element("text", text, class_="tick x", x=x, y=bottom + 18))


def _draw_y_tick(value: float, text: str, chart: Chart) -> Html:
    y = _y(value, chart)
    mark = element("line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y)
    return join(mark, element("text", text, class_="tick y", x=LEFT - 8, y=y))


def _x(value: float, chart: Chart) -> float:
    return round(LEFT + chart.x.place(value) * (WIDTH - LEFT - RIGHT), 2)


def _y(value: float, chart: Chart) -> float:
    return round(HEIGHT - BOTTOM - chart.y.place(value) * (HEIGHT - TOP - BOTTOM), 2)


def _draw_line(line: Line, chart: Chart) -> Html:
    """The line in pieces, between the steps whose value is not finite."""
    points = thin(line.points)
    placed = [(_x(x, chart), _y(y, chart)) if math.isfinite(y) else None for x, y in points]
    pieces = split_at_gaps(placed)
    marks = [piece for piece in pieces if len(piece) == 1 or len(points) <= _MOST_MARKS]
    shown = [[x, _x(x, chart), format_number(y)] for x, y in points]
    return element(
        "g",
        *(element("polyline", points=" ".join(f"{x:g},{y:g}" for x, y in piece)) for piece in pieces),
        *(element("circle", cx=x, cy=y, r=2.5) for piece in marks for x, y in piece),
        class_=f"line {line.style}",
        data_name=line.name,
        data_points=json.dumps(shown, separators=(",", ":")),
    )


def split_at_gaps(points: Sequence[Point | None]) -> list[list[Point]]:
    """The pieces between the None.

    >>> split_at_gaps([(0, 1), (1, 2), None, (3, 4)])
    [[(0, 1), (1, 2)], [(3, 4)]]
    """
    pieces: list[list[Point]] = [[]]
    for point in points:
        if point is None:
            pieces.append([])
        else:
            pieces[-1].append(point)
    return [piece for piece in pieces if piece]


def thin(points: Sequence[Point], most: int = _MOST_POINTS) -> list[Point]:
    """At most about `most` points of a line: the extremes of equal shares of it, and gaps, so that no peak is lost."""
    if len(points) <= most:
        return list(points)
    size = -(-len(points) * 3 // most)
    kept: list[Point] = [points[0]]
    for start in range(0, len(points), size):
        kept += _extremes(points[start : start + size])
    return sorted({*kept, points[-1]}, key=lambda point: point[0])


def _extremes(points: Sequence[Point]) -> list[Point]:
    finite = [point for point in points if math.isfinite(point[1])]
    gaps = [point for point in points if not math.isfinite(point[1])]
    return [choose(finite, key=lambda point: point[1]) for choose in (min, max) if finite] + gaps[:1]


def _legend_entry(line: Line) -> Html:
    stroke = element("line", x1=1, x2=21, y1=5, y2=5)
    swatch = element("svg", element("g", stroke, class_=f"line {line.style}"), viewBox="0 0 22 10", class_="swatch")
    return element("li", swatch, line.name)
