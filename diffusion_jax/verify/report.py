"""The rows that checks return, and the table that is printed of them."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_MOST_FAILURES = 20


class Row(NamedTuple):
    """One number compared with its limit.

    Attributes:
      check: what is checked, the title of a row or column of the table.
      case: schedule, prediction or settings.
      value: the measured number.
      limit: the most that `value` may be, or the least if `at_least`.
      subject: the sampler, for checks of samplers.

    >>> dj.verify.Row("order", "rectified, v", 1.94, 1.7, at_least=True, subject="Heun()").passed
    True
    """

    check: str
    case: str
    value: float
    limit: float
    at_least: bool = False
    subject: str = ""

    @property
    def passed(self) -> bool:
        """Whether the value is finite and within its limit."""
        return self.margin >= 0

    @property
    def margin(self) -> float:
        """Distance from the limit, in units of the limit; negative if it failed."""
        if not math.isfinite(self.value):
            return -math.inf
        room = self.value - self.limit if self.at_least else self.limit - self.value
        return room / abs(self.limit) if self.limit else room


def format_table(rows: Sequence[Row]) -> str:
    """A table with one line per sampler, then one line per other check, each with its worst value.

    >>> print(dj.verify.format_table([dj.verify.Row("slerp endpoints", "weight 1", 0.0, 0.0)]))
    check            worst  limit  where     cases  result
    ---------------  -----  -----  --------  -----  ------
    slerp endpoints  0      <= 0   weight 1  1      pass
    <BLANKLINE>
    1 cases, all pass
    """
    of_samplers, others = [row for row in rows if row.subject], [row for row in rows if not row.subject]
    failed = [row for row in rows if not row.passed]
    parts = [_sampler_lines(of_samplers)] if of_samplers else []
    parts += [_check_lines(others)] if others else []
    parts += ["\n".join(_failure_lines(failed))] if failed else []
    return "\n\n".join([*parts, f"{len(rows)} cases, {f'{len(failed)} failed' if failed else 'all pass'}"])


def format_row(row: Row) -> str:
    """One row as a sentence.

    >>> dj.verify.format_row(dj.verify.Row("slerp endpoints", "weight 1", 0.0, 0.0))
    'slerp endpoints: weight 1: 0, must be <= 0'
    """
    subject = f"{row.subject}, " if row.subject else ""
    return f"{row.check}: {subject}{row.case}: {_format_value(row.value)}, must be {_format_limit(row)}"


def worst_row(rows: Iterable[Row]) -> Row:
    """The row nearest to its limit, or furthest beyond it."""
    return min(rows, key=lambda row: row.margin)


def _failure_lines(failed: Sequence[Row]) -> list[str]:
    lines = [f"FAILED {format_row(row)}" for row in failed[:_MOST_FAILURES]]
    if len(failed) > _MOST_FAILURES:
        lines.append(f"and {len(failed) - _MOST_FAILURES} more that FAILED; --full prints all")
    return lines


def _sampler_lines(rows: Sequence[Row]) -> str:
    checks, body = _distinct(rows, "check"), []
    for subject in _distinct(rows, "subject"):
        mine = [row for row in rows if row.subject == subject]
        cells = [_format_cell([row for row in mine if row.check == check]) for check in checks]
        body.append([subject, *cells, str(len(mine)), _result(mine)])
    return _align([["sampler", *checks, "cases", "result"], *body])


def _check_lines(rows: Sequence[Row]) -> str:
    body = []
    for check in _distinct(rows, "check"):
        mine = [row for row in rows if row.check == check]
        row = worst_row(mine)
        body.append([check, _format_value(row.value), _format_limit(row), row.case, str(len(mine)), _result(mine)])
    return _align([["check", "worst", "limit", "where", "cases", "result"], *body])


def _result(rows: Sequence[Row]) -> str:
    return "pass" if all(row.passed for row in rows) else "FAIL"


def _distinct(rows: Sequence[Row], field: str) -> list[str]:
    return list(dict.fromkeys(getattr(row, field) for row in rows))


def _format_cell(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    row = worst_row(rows)
    return _format_value(row.value) + ("" if row.passed else " !")


def _format_limit(row: Row) -> str:
    return f"{'>=' if row.at_least else '<='} {_format_value(row.limit)}"


def _format_value(value: float) -> str:
    if math.isfinite(value) and value == int(value):
        return f"{value:.0f}"
    return f"{value:.2f}" if 0.1 <= abs(value) < 1000 else f"{value:.1e}"


def _align(lines: list[list[str]]) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rows = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([rows[0], "  ".join("-" * w for w in widths), *rows[1:]])
