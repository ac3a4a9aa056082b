"""The record of a run, `metrics.jsonl`, as curves."""

import collections
import math
from typing import Any

from diffusion_jax.report.files import Note, noted, read_file
from diffusion_jax.runtime.place import Place
from diffusion_jax.runtime.writers import parse_entry

__all__ = ["Curve", "Curves", "read_metrics", "read_number"]

# Step -> value, in the order of the steps; NaN where a value is not finite.
Curve = dict[int, float]
Curves = dict[str, Curve]

# Metrics are float32: what is larger is not finite, what is smaller is 0.
_LARGEST, _SMALLEST = 3.5e38, 1e-46
_MOST_STEPS = 2**53


def read_metrics(workdir: Place, note: Note) -> Curves:
    """The curve of each metric. Of two values for one step the later counts: a run that was resumed wrote it.

    A last line that is not complete is being written. Other lines that are not JSON are counted in a note.
    """
    found: Curves = collections.defaultdict(dict)
    with noted("metrics.jsonl", note):
        text = (read_file(workdir / "metrics.jsonl") or b"").decode(errors="replace")
        *lines, _ = text.split("\n")
        entries = [parse_entry(line) for line in lines]
        for entry in filter(None, entries):
            _add(entry, found)
        if damaged := entries.count(None):
            note(f"metrics.jsonl: {damaged} of {len(lines)} lines are damaged and left out")
    return {name: dict(sorted(curve.items())) for name, curve in found.items()}


def _add(entry: dict[str, Any], found: Curves) -> None:
    step = entry["step"]
    if isinstance(step, bool) or not 0 <= step <= _MOST_STEPS:
        return
    for name, value in entry.items():
        if name != "step" and (number := read_number(value)) is not None:
            found[name][step] = number


def read_number(value: Any) -> float | None:
    """A metric as a float: NaN if it is not finite, which the record writes as null; None if it is no number.

    >>> read_number(2), read_number(None), read_number(True)
    (2.0, nan, None)
    """
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if abs(value) < _SMALLEST:
        return 0.0
    return float(value) if abs(value) < _LARGEST else math.nan
