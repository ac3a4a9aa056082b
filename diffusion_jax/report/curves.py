"""Which charts the report shows."""

import itertools
import math
import re
from collections.abc import Iterable, Sequence

from diffusion_jax.report.axis import Axis, make_axis
from diffusion_jax.report.chart import Chart, Line
from diffusion_jax.report.metrics import Curve
from diffusion_jax.report.record import SPEED, RunRecord

__all__ = ["make_charts"]

_NUMBER = r"-?[0-9]{1,9}(?:\.[0-9]{1,9})?"
_BIN = re.compile(f"eval_loss/log_snr_({_NUMBER}|-inf)_({_NUMBER}|inf)")
_SHOWN = {"loss", "eval_loss", "learning_rate", "grad_norm", SPEED}
# A few values far above the others would hide them on a linear axis.
_PEAK = 4


def make_charts(runs: Sequence[RunRecord]) -> list[Chart]:
    """The charts of one or more runs; those without a value are left out."""
    charts = [
        _chart("Loss: training, and held-out (dashed)", [*_draw_lines(runs, "loss"), *_held_out_lines(runs)]),
        _bins_chart(runs),
        *_bins_over_steps(runs),
        _chart("Learning rate", _draw_lines(runs, "learning_rate"), is_log=False),
        _chart("Images per second", _draw_lines(runs, SPEED), is_log=_has_peaks(runs)),
        _chart("Gradient norm", _draw_lines(runs, "grad_norm")),
        *(_chart(name, _draw_lines(runs, name), is_log=False) for name in _other_metrics(runs)),
    ]
    return [chart for chart in charts if chart is not None]


def _chart(title: str, lines: Sequence[Line], is_log: bool = True) -> Chart | None:
    """A chart over steps. Its axis is logarithmic if `is_log` and all values are positive."""
    values = _finite(lines)
    return Chart(title, lines, _step_axis(lines), _value_axis(values, is_log)) if values else None


def _step_axis(lines: Iterable[Line]) -> Axis:
    return make_axis([0.0, *(x for line in lines for x, _ in line.points)], from_zero=True)


def _value_axis(values: Sequence[float], is_log: bool) -> Axis:
    fits = is_log and min(values) > 0
    return make_axis(values if fits else [0.0, *values], fits, from_zero=True)


def _finite(lines: Iterable[Line]) -> list[float]:
    return [y for line in lines for _, y in line.points if math.isfinite(y)]


def _draw_lines(runs: Sequence[RunRecord], metric: str) -> list[Line]:
    """The metric of each run that has it, in the run's colour."""
    return [
        Line(run.name, _points(run.curves[metric]), f"run{number}")
        for number, run in enumerate(runs, 1)
        if metric in run.curves
    ]


def _held_out_lines(runs: Sequence[RunRecord]) -> list[Line]:
    return [
        Line(f"{line.name}, held-out", line.points, f"{line.style} dashed") for line in _draw_lines(runs, "eval_loss")
    ]


def _points(curve: Curve) -> list[tuple[float, float]]:
    return [(float(step), value) for step, value in curve.items()]


def _has_peaks(runs: Sequence[RunRecord]) -> bool:
    speeds = sorted(_finite(_draw_lines(runs, SPEED)))
    return bool(speeds) and speeds[-1] > _PEAK * speeds[len(speeds) // 2]


def _bins(runs: Iterable[RunRecord]) -> list[tuple[float, float]]:
    """The bins of log-SNR that the runs were evaluated in, from noise to data."""
    return sorted({ends for run in runs for ends in _curves_by_bin(run)})


def _curves_by_bin(run: RunRecord) -> dict[tuple[float, float], Curve]:
    matches = ((_BIN.fullmatch(name), curve) for name, curve in run.curves.items())
    return {(float(match[1]), float(match[2])): curve for match, curve in matches if match}


def _bin_name(low: float, high: float) -> str:
    """Such as "-4 to 0"."""
    if low == -math.inf:
        return f"below {high:g}"
    return f"above {low:g}" if high == math.inf else f"{low:g} to {high:g}"


def _bins_chart(runs: Sequence[RunRecord]) -> Chart | None:
    """The held-out loss over log-SNR at the last evaluation of each run."""
    bins = _bins(runs)
    lines = [_bins_line(number, run, bins) for number, run in enumerate(runs, 1) if _curves_by_bin(run)]
    if not (values := _finite(lines)):
        return None
    room = 0.5  # half a bin at each end
    x = Axis(-room, len(bins) - 1 + room)
    names = [_bin_name(*ends) for ends in bins]
    return Chart("Held-out loss by log-SNR, last evaluation", lines, x, _value_axis(values, True), names)


def _bins_line(number: int, run: RunRecord, bins: Sequence[tuple[float, float]]) -> Line:
    curves = _curves_by_bin(run)
    last = max(step for curve in curves.values() for step in curve)
    points = [(float(i), curves.get(ends, {}).get(last, math.nan)) for i, ends in enumerate(bins)]
    return Line(f"{run.name}, step {last}", points, f"run{number}")


def _bins_over_steps(runs: Sequence[RunRecord]) -> list[Chart]:
    """A chart for each run, with a line for each bin; all have the same axes."""
    bins = _bins(runs)
    groups = [[_bin_line(i, ends, run) for i, ends in enumerate(bins) if ends in _curves_by_bin(run)] for run in runs]
    lines = list(itertools.chain(*groups))
    if not (values := _finite(lines)):
        return []
    x, y, title = _step_axis(lines), _value_axis(values, True), "Held-out loss by log-SNR"
    names = [f"{title}: {run.name}" if len(runs) > 1 else title for run in runs]
    return [Chart(name, group, x, y) for name, group in zip(names, groups, strict=True) if _finite(group)]


def _bin_line(number: int, ends: tuple[float, float], run: RunRecord) -> Line:
    return Line(f"log-SNR {_bin_name(*ends)}", _points(_curves_by_bin(run)[ends]), f"bin{number % 6 + 1}")


def _other_metrics(runs: Sequence[RunRecord]) -> list[str]:
    """Metrics without a chart of their own above, such as "eval_vlb"; a count that stays 0 is left out."""
    names = dict.fromkeys(name for run in runs for name, curve in run.curves.items() if any(curve.values()))
    return [name for name in names if name not in _SHOWN and not _BIN.fullmatch(name)]
