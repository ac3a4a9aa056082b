"""Axes: which values they span, where their ticks stand and how the ticks are written."""

import dataclasses
import math
from collections.abc import Iterable, Sequence

__all__ = ["Axis", "format_number", "make_axis", "parse_number"]

_MOST_TICKS = 7
# Share of the axis that is empty beyond the values.
_ROOM = 0.04
# A narrower range than this, relative to the values, is a constant with rounding errors.
_CONSTANT = 1e-9
# Letters for large numbers, and from where on they are used.
_FACTORS = {"M": 1e6, "k": 1e3}
_SHORT = {"M": 1e6, "k": 1e4}


@dataclasses.dataclass(frozen=True)
class Axis:
    """A linear or logarithmic axis from `low` to `high`.

    >>> Axis(1.0, 100.0, True).place(10.0)
    0.5
    """

    low: float
    high: float
    is_log: bool = False

    def place(self, value: float) -> float:
        """Where a value stands: 0 at `low`, 1 at `high`."""
        low, high, x = (self._scale(each) for each in (self.low, self.high, value))
        return (x - low) / (high - low)

    def ticks(self) -> list[tuple[float, str]]:
        """(value, text) of each tick."""
        values = self._log_ticks() if self.is_log else _linear_ticks(self.low, self.high)
        return list(zip(values, _tick_texts(values), strict=True))

    def _scale(self, value: float) -> float:
        return math.log10(value) if self.is_log else value

    def _log_ticks(self) -> list[float]:
        """Powers of ten, and as many of their multiples as there is room for; linear ticks in less than a factor 2."""
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        skip = -(-len(decades) // _MOST_TICKS)
        choices: list[list[float]] = [[10.0**decade for decade in decades[::skip]]]
        for factors in ((1, 3), (1, 2, 5), (1, 2, 3, 4, 6, 8), range(1, 10)):
            choices.append([float(f"{factor}e{decade}") for decade in decades for factor in factors])
        inside = [[value for value in choice if self.low <= value <= self.high] for choice in choices]
        fitting = [choice for choice in inside if 3 <= len(choice) <= _MOST_TICKS]
        return fitting[-1] if fitting else _linear_ticks(self.low, self.high)


def make_axis(values: Iterable[float], is_log: bool = False, from_zero: bool = False) -> Axis:
    """The axis of finite values, with some room; `from_zero` starts a linear axis at 0 if no value is negative.

    >>> make_axis([0.0, 600.0], from_zero=True).low
    0.0
    """
    found = list(values) or [1.0]
    low, high = min(found), max(found)
    if high - low <= _CONSTANT * max(abs(low), abs(high)):
        low, high = (low / 1.5, high * 1.5) if is_log else (low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2)
    if is_log:
        room = (high / low) ** _ROOM
        return Axis(low / room, high * room, True)
    room = (high - low) * _ROOM
    return Axis(0.0 if from_zero and min(found) >= 0 else low - room, high + room)


def _linear_ticks(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10((high - low) / _MOST_TICKS))
    step = next(size for size in (power, 2 * power, 5 * power, 10 * power) if (high - low) / size <= _MOST_TICKS)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _tick_texts(values: Sequence[float]) -> list[str]:
    """The shortest texts that tell the ticks apart and are their values."""
    for digits in range(1, 13):
        texts = [format_number(value, digits) for value in values]
        if all(_is_close(parse_number(text), value, values) for text, value in zip(texts, values, strict=True)):
            break
    return texts


def _is_close(found: float, value: float, ticks: Sequence[float]) -> bool:
    spacing = abs(ticks[-1] - ticks[0]) / (len(ticks) - 1) if len(ticks) > 1 else abs(value)
    return abs(found - value) <= 0.01 * min(spacing, abs(value))


def format_number(value: float, digits: int = 4) -> str:
    """A number with `digits` significant digits, in the shortest form.

    >>> [format_number(value) for value in (0.00002, 0.12345, 600.0, 20_000.0, 1_500_000.0)]
    ['2e-5', '0.1235', '600', '20k', '1.5M']
    """
    if not math.isfinite(value):
        return "not finite"
    rounded = float(f"{value:.{digits}g}")
    if rounded and not 1e-4 <= abs(rounded) < 1e9:
        number, _, exponent = f"{rounded:.12e}".partition("e")
        return f"{float(number):.12g}e{int(exponent)}"
    letter = next((letter for letter, least in _SHORT.items() if abs(rounded) >= least), "")
    return f"{rounded / _FACTORS.get(letter, 1.0):.12g}{letter}"


def parse_number(text: str) -> float:
    """The value of a text that `format_number` has written.

    >>> parse_number("1.5M")
    1500000.0
    """
    return float(text.rstrip("kM")) * _FACTORS.get(text[-1:], 1.0)
