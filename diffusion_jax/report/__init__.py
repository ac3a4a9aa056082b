"""The report of a run's directory: one HTML page that needs nothing else.

files.py       reads the files that a run has written, whole or damaged
metrics.py     metrics.jsonl as curves
events.py      TensorBoard's files: the speed, and when the run was trained
samples.py     the grids of samples
settings.py    the configuration and the environment
record.py      all of them together, of one run
axis.py        ranges, ticks and numbers
chart.py       lines as SVG
curves.py      which charts the page shows
tables.py      summary, differences, configuration, environment
html.py        elements, whose text is escaped
page.py        the page, with page.css and page.js
"""

from diffusion_jax.report.page import write_report

__all__ = ["write_report"]


def __dir__() -> list[str]:
    return __all__
