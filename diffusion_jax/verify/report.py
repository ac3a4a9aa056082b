"""What a check found: rows, and the table that is printed of them."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_SHOWN = 20


class Row(NamedTuple):
    """One figure beside its limit: at most so much, or `at_least` so much."""

    check: str
    case: str
    figure: float
    limit: float
    at_least: bool = False
    subject: str = ""  # the sampler that it is about

    @property
    def passed(self) -> bool:
        if not math.isfinite(self.figure):
            return False
        return self.figure >= self.limit if self.at_least else self.figure <= self.limit

    @property
    def margin(self) -> float:
        """How far on the right side of the limit, in limits; negative where it failed."""
        if not math.isfinite(self.figure):
            return -math.inf
        room = self.figure - self.limit if self.at_least else self.limit - self.figure
        return room / abs(self.limit) if self.limit else room


def worst(rows: Iterable[Row]) -> Row:
    """The row nearest to its limit, or furthest beyond."""
    return min(rows, key=lambda row: row.margin)


def table(rows: Sequence[Row]) -> str:
    """A line for each check with its worst case, after a line for each sampler with its worst figures."""
    about_samplers = [row for row in rows if row.subject]
    others = [row for row in rows if not row.subject]
    parts = [_matrix(about_samplers)] if about_samplers else []
    parts += [_list(others)] if others else []
    failed = [row for row in rows if not row.passed]
    verdict = f"{len(rows)} cases, {len(failed)} failed" if failed else f"{len(rows)} cases, all pass"
    shown = [f"FAILED {full(row)}" for row in failed[:_SHOWN]]
    if len(failed) > _SHOWN:
        shown.append(f"and {len(failed) - _SHOWN} more that FAILED; --full shows all")
    return "\n\n".join([*parts, *(["\n".join(shown)] if failed else []), verdict])


def full(row: Row) -> str:
    """One row in words."""
    sign = ">=" if row.at_least else "<="
    about = f"{row.subject}, " if row.subject else ""
    return f"{row.check}: {about}{row.case}: {_number(row.figure)}, must be {sign} {_number(row.limit)}"


def _matrix(rows: Sequence[Row]) -> str:
    checks, subjects = _names(rows, "check"), _names(rows, "subject")
    body = []
    for subject in subjects:
        mine = [row for row in rows if row.subject == subject]
        cells = [_cell([row for row in mine if row.check == check]) for check in checks]
        result = "pass" if all(row.passed for row in mine) else "FAIL"
        body.append([subject, *cells, str(len(mine)), result])
    return _aligned([["sampler", *checks, "cases", "result"], *body])


def _cell(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    row = worst(rows)
    return _number(row.figure) + ("" if row.passed else " !")


def _list(rows: Sequence[Row]) -> str:
    body = []
    for check in _names(rows, "check"):
        mine = [row for row in rows if row.check == check]
        row = worst(mine)
        limit = f"{'>=' if row.at_least else '<='} {_number(row.limit)}"
        result = "pass" if all(row.passed for row in mine) else "FAIL"
        body.append([check, _number(row.figure), limit, row.case, str(len(mine)), result])
    return _aligned([["check", "worst", "limit", "where", "cases", "result"], *body])


def _names(rows: Sequence[Row], field: str) -> list[str]:
    return list(dict.fromkeys(getattr(row, field) for row in rows))


def _number(value: float) -> str:
    if value == int(value) if math.isfinite(value) else False:
        return f"{value:.0f}"
    return f"{value:.2f}" if 0.1 <= abs(value) < 1000 else f"{value:.1e}"


def _aligned(lines: list[list[str]]) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rows = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([rows[0], "  ".join("-" * w for w in widths), *rows[1:]])
