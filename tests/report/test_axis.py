import itertools
import random

import pytest

from diffusion_jax.report.axis import Axis, format_number, make_axis, parse_number

RANGES = [
    (0.0, 600.0),
    (0.0, 1.0),
    (0.2, 0.68),
    (0.2283, 0.2289),
    (1e-7, 2e-3),
    (1e-46, 3e38),
    (5.0, 5.0),
    (-3.0, 7.0),
    (0.0, 0.0),
    (1.0, 1.0 + 1e-16),
    (1e5, 1.00001e5),
    (0.0, 2.0**53),
]


CASES = [(*ends, is_log) for ends in RANGES for is_log in (False, True) if ends[0] > 0 or not is_log]


@pytest.mark.parametrize(("low", "high", "is_log"), CASES)
def test_the_values_are_inside_and_the_ticks_are_few_apart_and_true(low, high, is_log):
    axis = make_axis([low, high], is_log)
    assert 0 < axis.place(low) <= axis.place(high) < 1
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 8
    places = [axis.place(value) for value, _ in ticks]
    assert all(0 <= place <= 1 for place in places)
    assert all(b - a > 0.02 for a, b in itertools.pairwise(places))
    for value, text in ticks:
        assert len(text) <= 12
        assert axis.place(parse_number(text)) == pytest.approx(axis.place(value), abs=0.01)
    assert len({text for _, text in ticks}) == len(ticks)


def test_random_ranges_have_ticks():
    rng = random.Random(0)
    for _ in range(2000):
        low = rng.choice([-1, 1]) * 10 ** rng.uniform(-12, 12)
        axis = make_axis([low, low + 10 ** rng.uniform(-12, 12)], is_log=low > 0 and rng.random() < 0.5)
        assert 2 <= len(axis.ticks()) <= 9


def test_a_logarithmic_axis_places_by_factors():
    axis = Axis(0.01, 100.0, True)
    assert [axis.place(value) for value in (0.01, 0.1, 1.0, 100.0)] == pytest.approx([0.0, 0.25, 0.5, 1.0])
    assert [text for _, text in make_axis([0.01, 100.0], True).ticks()] == ["0.01", "0.1", "1", "10", "100"]


def test_an_axis_from_zero_begins_there():
    assert make_axis([0.0, 8.0], from_zero=True).low == 0.0
    assert make_axis([-2.0, 8.0], from_zero=True).low < -2.0
    assert make_axis([], from_zero=True).ticks()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (600.0, "600"),
        (9999.0, "9999"),
        (12_340.0, "12.34k"),
        (123_456.0, "123.5k"),
        (2_500_000.0, "2.5M"),
        (1e9, "1e9"),
        (0.00012, "0.00012"),
        (0.00002, "2e-5"),
        (-3.25e-7, "-3.25e-7"),
        (3e38, "3e38"),
        (99_999.9, "100k"),
        (float("nan"), "not finite"),
    ],
)
def test_numbers_are_short_and_can_be_read_back(value, text):
    assert format_number(value) == text
    if value == value:
        assert parse_number(text) == pytest.approx(value, rel=1e-3)
