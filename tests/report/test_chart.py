import json
import math
import random

import pytest
from html_tree import read_page

from diffusion_jax.report.axis import make_axis, parse_number
from diffusion_jax.report.chart import Chart, Line, draw_chart, thin


def draw(*lines, is_log=False, categories=()):
    values = [y for line in lines for _, y in line.points if math.isfinite(y)]
    x = make_axis([x for line in lines for x, _ in line.points])
    return read_page(draw_chart(Chart("A chart", lines, x, make_axis(values, is_log), categories)))


def scale_of(page, axis, is_log=False):
    """From a place in the drawing to the value, by the first and the last tick that a reader sees."""
    ticks = [(float(tick.attributes[axis]), parse_number(tick.text)) for tick in page.find("text", axis)]
    (a, low), (b, high) = min(ticks), max(ticks)
    if is_log:
        return lambda place: low * (high / low) ** ((place - a) / (b - a))
    return lambda place: low + (high - low) * (place - a) / (b - a)


def pieces_of(line):
    return [
        [tuple(map(float, pair.split(","))) for pair in polyline.attributes["points"].split()]
        for polyline in line.find("polyline")
    ]


@pytest.mark.parametrize("is_log", [False, True])
def test_the_points_stand_where_the_ticks_say(is_log):
    points = [(20.0, 0.68), (40.0, 0.47), (300.0, 0.24), (600.0, 0.2)]
    page = draw(Line("loss", points, "run1"), is_log=is_log)
    x_of, y_of = scale_of(page, "x"), scale_of(page, "y", is_log)
    (line,) = page.find("g", "line")[:1]
    (piece,) = pieces_of(line)
    assert [x_of(x) for x, _ in piece] == pytest.approx([x for x, _ in points], abs=0.1)
    assert [y_of(y) for _, y in piece] == pytest.approx([y for _, y in points], rel=2e-3)


def test_the_values_under_the_pointer_are_those_of_the_line():
    page = draw(Line("loss", [(20.0, 0.67694), (40.0, 0.47161)], "run1"))
    line = page.find("g", "line")[0]
    shown = json.loads(line.attributes["data-points"])
    assert [(step, text) for step, _, text in shown] == [(20, "0.6769"), (40, "0.4716")]
    assert [place for _, place, _ in shown] == [x for x, _ in pieces_of(line)[0]]


def test_a_step_without_a_value_is_a_gap_and_a_lonely_point_is_marked():
    points = [(float(i), math.nan if i in (40, 42) else 1.0 + i) for i in range(100)]
    line = draw(Line("loss", points, "run1")).find("g", "line")[0]
    assert [len(piece) for piece in pieces_of(line)] == [40, 1, 57]
    (mark,) = line.find("circle")
    assert (float(mark.attributes["cx"]), float(mark.attributes["cy"])) == pieces_of(line)[1][0]


def test_every_line_is_in_the_legend():
    page = draw(Line("a", [(0.0, 1.0)], "run1"), Line("b", [(0.0, 2.0)], "run2 dashed"))
    assert [entry.text for entry in page.find("li")] == ["a", "b"]
    assert [g.attributes["class"] for g in page.find("g", "line")] == ["line run1", "line run2 dashed"] * 2


def test_categories_are_the_ticks():
    page = draw(Line("a", [(0.0, 1.0), (1.0, 2.0)], "run1"), categories=("below 0", "above 0"))
    assert [tick.text for tick in page.find("text", "x")] == ["below 0", "above 0"]
    assert json.loads(page.find("svg")[0].attributes["data-labels"]) == ["below 0", "above 0"]


def test_a_long_line_is_thinned_and_no_peak_or_gap_is_lost():
    rng = random.Random(0)
    points = [(float(i), rng.random()) for i in range(100_000)]
    points[31_415] = (31_415.0, 9.0)
    points[60_000] = (60_000.0, -9.0)
    points[70_000] = (70_000.0, math.nan)
    kept = thin(points, 800)
    assert len(kept) <= 810
    assert {points[0], points[31_415], points[60_000], points[70_000], points[-1]} <= {*kept}
    assert [x for x, _ in kept] == sorted(x for x, _ in kept)
    assert thin(points[:800], 800) == points[:800]


def test_text_is_escaped():
    page = draw(Line("</g><script>alert(1)</script>", [(0.0, 1.0)], "run1"))
    assert not page.find("script")
    assert page.find("li")[0].text == "</g><script>alert(1)</script>"
    assert page.find("g", "line")[0].attributes["data-name"] == "</g><script>alert(1)</script>"
