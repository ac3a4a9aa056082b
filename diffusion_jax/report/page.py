"""The report: one HTML page without a request to anywhere."""

import base64
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from diffusion_jax.report.chart import draw_chart
from diffusion_jax.report.curves import make_charts
from diffusion_jax.report.html import Html, element, join
from diffusion_jax.report.record import RunRecord, read_run
from diffusion_jax.report.samples import SampleGrid
from diffusion_jax.report.tables import (
    draw_configs,
    draw_differences,
    draw_environment,
    draw_summary,
    find_differences,
    run_name,
)
from diffusion_jax.runtime.files import replace_file
from diffusion_jax.validation import check_integer, local_path
from diffusion_jax.version import __version__

__all__ = ["format_size", "write_report"]

# As many colours as can be told apart.
_MOST_RUNS = 8
# Sections of a config that define what a loss measures.
_DEFINE_LOSS = ("data.", "loss.", "prediction.", "schedule.")
_STYLE, _SCRIPT = (Path(__file__).with_name(name).read_text("utf-8") for name in ("page.css", "page.js"))

Workdir = str | os.PathLike[str]


def write_report(workdirs: Workdir | Sequence[Workdir], out: Workdir, *, grids: int = 20) -> int:
    """Writes a page about one or more runs beside each other; returns its size in bytes.

    The page shows curves of the metrics, at most `grids` grids of samples per run, the configurations and the
    environments. It needs no other file and no network. `workdirs` are directories of runs, on this machine or in a
    bucket (gs://bucket/run). Files are only read, so a run may be training meanwhile. What is missing or damaged in a
    run is named on the page.

    Raises ValueError for a directory without a run, one that is named twice, and more than 8; OSError if a
    directory cannot be read or `out` cannot be written.

    >>> write_report(["runs/digits", "runs/other"], "report.html")  # doctest: +SKIP
    412345
    >>> write_report("nowhere", "report.html")
    Traceback (most recent call last):
    ...
    ValueError: workdir = nowhere: does not exist; use the --workdir of a training
    """
    check_integer("grids", grids)
    names = [os.fspath(each) for each in ([workdirs] if isinstance(workdirs, str | os.PathLike) else workdirs)]
    _check_workdirs(names)
    page = draw_page([read_run(name, grids) for name in names])
    data = page.encode()
    with replace_file(local_path("out", out)) as new:
        new.write_bytes(data)
    return len(data)


def _check_workdirs(names: Sequence[str]) -> None:
    plain = [name.rstrip("/") for name in names]
    twice = [name for name in plain if plain.count(name) > 1]
    if twice:
        raise ValueError(f"workdir = {twice[0]}: is named twice; name each run once")
    if not 1 <= len(names) <= _MOST_RUNS:
        raise ValueError(f"workdir has {len(names)} runs: must be 1 to {_MOST_RUNS}; write several reports")


def draw_page(runs: Sequence[RunRecord]) -> Html:
    """The page as text. It says how large it is."""
    title = f"Report: {', '.join(run.name for run in runs)}"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_policy()),
        element("meta", name="viewport", content="width=device-width"),
        element("title", title),
        element("style", Html(_STYLE)),
    )
    body = [*_draw_head(runs), *_draw_sections(runs)]
    script = element("script", Html(_SCRIPT))
    size = len(join(head, *body, script).encode())
    foot = element("footer", f"{format_size(size)}, written by diffusion-jax report {__version__}")
    return join(Html("<!doctype html>\n"), element("html", head, element("body", *body, foot, script), lang="en"))


def _policy() -> str:
    """Forbids the browser to load anything, and to run or apply anything but the page's own script and style."""
    script, style = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (_SCRIPT, _STYLE))
    return f"default-src 'none'; img-src data:; script-src 'sha256-{script}'; style-src 'sha256-{style}'"


def format_size(size: int) -> str:
    """A number of bytes.

    >>> format_size(412_345)
    '412 kB'
    """
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def _draw_head(runs: Sequence[RunRecord]) -> list[Html]:
    names = element("h1", *(run_name(number, run) for number, run in enumerate(runs, 1)))
    notes = [f"{run.name}: {note}" if len(runs) > 1 else note for run in runs for note in run.notes]
    return [names, element("ul", *(element("li", note) for note in notes), class_="notes")] if notes else [names]


def _draw_sections(runs: Sequence[RunRecord]) -> list[Html]:
    sections = {"Summary": [draw_summary(runs)], "Samples": _draw_slider(runs), "Curves": _draw_curves(runs)}
    if len(runs) > 1:
        sections["Differences"] = [draw_differences(runs)]
    sections |= {"Configuration": draw_configs(runs), "Environment": [draw_environment(runs)]}
    return [element("section", element("h2", name), *parts) for name, parts in sections.items() if parts]


def _draw_curves(runs: Sequence[RunRecord]) -> list[Html]:
    """The charts, below a warning if the losses of the runs are different quantities."""
    fields = [name for name in find_differences(runs) if name.startswith(_DEFINE_LOSS)]
    warning = f"The losses of these runs cannot be compared: they differ in {', '.join(fields)}."
    charts = element("div", *(draw_chart(chart) for chart in make_charts(runs)), class_="charts")
    return [*([element("p", warning, class_="warning")] if fields else []), charts]


def _draw_slider(runs: Sequence[RunRecord]) -> list[Html]:
    """The last grid of each run, and a slider to the others."""
    steps = sorted({grid.step for run in runs for grid in run.grids})
    if not steps:
        return []
    last = str(len(steps) - 1)
    slider = element("input", type="range", min="0", max=last, value=last, aria_label="step", data_steps=steps)
    control = element("p", slider, element("output", f"step {steps[-1]}"), class_="slider")
    grids = [_draw_grids(number, run) for number, run in enumerate(runs, 1) if run.grids]
    return [*([control] if len(steps) > 1 else []), element("div", *grids, class_="grids")]


def _draw_grids(number: int, run: RunRecord) -> Html:
    last = run.grids[-1]
    images = [_draw_image(grid, None if grid is last else "") for grid in run.grids]
    caption = element("figcaption", run_name(number, run), element("span", f"step {last.step}", class_="step"))
    return element("figure", caption, *images, class_="grid")


def _draw_image(grid: SampleGrid, hidden: str | None) -> Html:
    width, height = grid.size
    source = f"data:image/png;base64,{base64.b64encode(grid.png).decode()}"
    name = f"samples at step {grid.step}"
    return element("img", src=source, alt=name, width=width, height=height, data_step=grid.step, hidden=hidden)
