"""Tables of the report: what the runs reached, in which fields they differ, how they are configured."""

import datetime
import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from diffusion_jax.report.axis import format_number
from diffusion_jax.report.html import Html, element
from diffusion_jax.report.metrics import Curve
from diffusion_jax.report.record import SPEED, RunRecord

__all__ = ["draw_configs", "draw_differences", "draw_environment", "draw_summary", "find_differences", "run_name"]

_NONE = "\N{EN DASH}"


def draw_summary(runs: Sequence[RunRecord]) -> Html:
    """What each run has reached."""
    rows: dict[str, Callable[[RunRecord], str]] = {
        "steps": _steps,
        "loss": lambda run: _last(run.curves.get("loss", {})),
        "held-out loss": lambda run: _last(run.curves.get("eval_loss", {})),
        "lowest held-out loss": lambda run: _lowest(run.curves.get("eval_loss", {})),
        "images per second, median": lambda run: _median(run.curves.get(SPEED, {})),
        "skipped batches": lambda run: _last(run.curves.get("skipped", {})),
        "trained": _trained,
    }
    return _draw_table(runs, {name: [value(run) for run in runs] for name, value in rows.items()})


def draw_environment(runs: Sequence[RunRecord]) -> Html:
    """The versions and the data of each run."""
    names = dict.fromkeys(name for run in runs for name in run.settings.facts)
    return _draw_table(runs, {name: [run.settings.facts.get(name, _NONE) for run in runs] for name in names})


def draw_differences(runs: Sequence[RunRecord]) -> Html:
    """The fields of the config in which the runs differ."""
    different = find_differences(runs)
    return _draw_table(runs, different) if different else element("p", "The configurations are the same.")


def find_differences(runs: Sequence[RunRecord]) -> dict[str, list[str]]:
    """The values of each field of the config in which the runs differ."""
    fields = sorted({name for run in runs for name in run.settings.config})
    rows = {name: [run.settings.config.get(name, _NONE) for run in runs] for name in fields}
    known = [i for i, run in enumerate(runs) if run.settings.config]  # of the others nothing can be said
    return {name: values for name, values in rows.items() if len({values[i] for i in known}) > 1}


def draw_configs(runs: Sequence[RunRecord]) -> list[Html]:
    """Each run's whole config, folded. Fields that were left out, and have their default, are pale."""
    return [
        element("details", element("summary", run_name(number, run)), _config_table(run))
        for number, run in enumerate(runs, 1)
        if run.settings.config
    ]


def run_name(number: int, run: RunRecord) -> Html:
    """The name of a run behind its colour."""
    return element("span", element("span", class_=f"dot run{number}"), run.name, class_="run")


def _config_table(run: RunRecord) -> Html:
    settings = run.settings
    rows = [
        element("tr", element("th", name), element("td", value), class_="pale" if name in settings.defaults else None)
        for name, value in settings.config.items()
    ]
    return element("table", *rows)


def _draw_table(runs: Sequence[RunRecord], rows: Mapping[str, Sequence[str]]) -> Html:
    """A table with a column for each run, under its name if there are several."""
    body = [element("tr", element("th", name), *(element("td", value) for value in row)) for name, row in rows.items()]
    names = (element("th", run_name(number, run)) for number, run in enumerate(runs, 1))
    head = [element("tr", element("td"), *names)] if len(runs) > 1 else []
    return element("div", element("table", *head, *body), class_="wide")


def _steps(run: RunRecord) -> str:
    done = max((step for curve in run.curves.values() for step in curve), default=0)
    planned = run.settings.config.get("train.steps")
    return f"{done} of {planned}" if planned else str(done)


def _last(curve: Curve) -> str:
    return format_number(curve[max(curve)]) if curve else _NONE


def _lowest(curve: Curve) -> str:
    finite = {step: value for step, value in curve.items() if math.isfinite(value)}
    if not finite:
        return _NONE
    step = min(finite, key=lambda each: finite[each])
    return f"{format_number(finite[step])} at step {step}"


def _median(curve: Curve) -> str:
    finite = [value for value in curve.values() if math.isfinite(value)]
    return format_number(statistics.median(finite), 3) if finite else _NONE


def _trained(run: RunRecord) -> str:
    """Such as "2 min 36 s in 1 session, until 2026-11-27 04:20 UTC"."""
    if not run.sessions:
        return _NONE
    seconds = sum(session.end - session.start for session in run.sessions)
    end = datetime.datetime.fromtimestamp(max(session.end for session in run.sessions), datetime.UTC)
    count = f"{len(run.sessions)} session" + "s" * (len(run.sessions) > 1)
    return f"{_duration(seconds)} in {count}, until {end:%Y-%m-%d %H:%M} UTC"


def _duration(seconds: float) -> str:
    """Such as "2 min 36 s".

    >>> _duration(156.2), _duration(7300.0), _duration(3.0)
    ('2 min 36 s', '2 h 1 min', '3 s')
    """
    hours, minutes, rest = int(seconds // 3600), int(seconds // 60 % 60), int(seconds % 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
