"""Intervals in their usual notation, such as "[0, 1)"."""

import math
import re
from typing import NamedTuple

import numpy as np

_FLOAT32_MAX = float(np.finfo(np.float32).max)


class Interval(NamedTuple):
    low: float
    high: float
    low_open: bool
    high_open: bool

    def contains(self, x: np.ndarray) -> np.ndarray:
        x = np.where(np.abs(x) > _FLOAT32_MAX, np.copysign(np.inf, x), x)
        above = (x > self.low) if self.low_open else (x >= self.low)
        below = (x < self.high) if self.high_open else (x <= self.high)
        return above & below  # False for NaN

    def __str__(self) -> str:
        left, right = "(["[not self.low_open], ")]"[not self.high_open]
        if math.isfinite(self.low) and math.isfinite(self.high):
            return f"in {left}{self.low:g}, {self.high:g}{right}"
        limits = [f"{'>' if self.low_open else '>='} {self.low:g}"] if math.isfinite(self.low) else []
        limits += [f"{'<' if self.high_open else '<='} {self.high:g}"] if math.isfinite(self.high) else []
        closed = (self.high == math.inf and not self.high_open) or (self.low == -math.inf and not self.low_open)
        return " and ".join(limits + ([] if closed else ["finite"])) or "a number"


def parse_interval(interval: str) -> Interval:
    """Reads an interval from its usual notation, such as "[0, 1)"."""
    match = re.fullmatch(r"([(\[])(.+), (.+)([)\]])", interval)
    assert match, interval
    return Interval(float(match[2]), float(match[3]), match[1] == "(", match[4] == ")")
