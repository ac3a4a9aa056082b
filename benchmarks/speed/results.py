"""What a benchmark reports: a table in Markdown, and JSON with everything that led to it."""

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measuring import Result, find_ratio

from diffusion_jax.preflight.text import format_count

PACKAGES = (
    "diffusion_jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "numpy",
    "torch",
    "diffusers",
    "denoising-diffusion-pytorch",
)
_HEAD = ("", "median", "fastest", "slowest", "{rate}", "time / ours", "parameters", "FLOP/call", "of the ceiling")


def describe_environment() -> dict[str, Any]:
    """Versions, the device and the cores."""
    import jax

    devices = jax.devices()
    return {
        "versions": {"python": platform.python_version()} | _find_versions(),
        "device": devices[0].device_kind,
        "platform": devices[0].platform,
        "devices": len(devices),
        "system": platform.platform(),
        "processor": _name_processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "pytorch_threads": sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None,
        "environment": {name: value for name, value in os.environ.items() if name.startswith(("XLA_", "JAX_"))},
    }


def _find_versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _name_processor() -> str:
    """The model of the CPU, as Linux names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def format_time(seconds: float) -> str:
    """Seconds with a unit.

    >>> format_time(0.01234), format_time(2.5)
    ('12.3 ms', '2.5 s')
    """
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row is the head, with aligned columns.

    >>> print(markdown([("a", "bcd"), ("ef", "g")]))
    | a  | bcd |
    |----|-----|
    | ef | g   |
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    head, *body = (" | ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)) for row in rows)
    rule = "|".join("-" * (width + 2) for width in widths)
    return "\n".join([f"| {head} |", f"|{rule}|", *(f"| {line} |" for line in body)])


def compare_rows(results: Sequence[Result], items: int, unit: str, ceiling: float) -> list[tuple[str, ...]]:
    """The rows of a table over `results`, of which the first is the reference; `items` is the work of one call."""
    return [
        tuple(text.format(rate=unit) for text in _HEAD),
        *(_row(each, results[0], items, ceiling) for each in results),
    ]


def _row(result: Result, reference: Result, items: int, ceiling: float) -> tuple[str, ...]:
    if result.problem:
        return (result.name, result.problem, *[""] * (len(_HEAD) - 2))
    figures = find_figures(result, reference, items, ceiling)
    return (
        result.name,
        *map(format_time, (result.median, *result.spread)),
        f"{figures['rate']:.4g}",
        f"{figures['ratio']:.2f}",
        f"{result.parameters:,}",
        format_count(figures["flops"], "FLOP"),
        f"{figures['share_of_ceiling']:.1%}",
    )


def find_figures(result: Result, reference: Result, items: int, ceiling: float) -> dict[str, float]:
    """What follows from the times: the rate, the ratio to the reference and the share of the ceiling."""
    flops = reference.flops if result.flops is None else result.flops
    return {
        "rate": items / result.median,
        "ratio": find_ratio(result, reference),
        "flops": flops,
        "share_of_ceiling": flops / result.median / ceiling,
    }


def describe_results(results: Sequence[Result], items: int, ceiling: float) -> list[dict[str, Any]]:
    """The results as JSON values, with all times."""
    rows = []
    for result in results:
        row = {"name": result.name, "note": result.note}
        if result.problem:
            rows.append(row | {"problem": result.problem})
            continue
        measured = {"median": result.median, "fastest": result.spread[0], "slowest": result.spread[1]}
        raw = {"seconds_per_call": list(result.seconds), "calls_per_round": result.calls}
        counted = {"parameters": result.parameters, "preparation": result.preparation}
        rows.append(row | measured | find_figures(result, results[0], items, ceiling) | raw | counted)
    return rows


def report(benchmark: str, settings: dict[str, Any], table: str, figures: dict[str, Any], out: Path | None) -> None:
    """Prints what was measured, and writes it as JSON to `out`."""
    environment = describe_environment()
    print(f"{benchmark}: {', '.join(f'{name} {value}' for name, value in settings.items())}")
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    print(f"{environment['device']}, {environment['cores']} cores; {versions}\n\n{table}\n", flush=True)
    if out is not None:
        command = " ".join(["python", *sys.argv])
        record = {"benchmark": benchmark, "command": command, "environment": environment, "settings": settings}
        out.write_text(json.dumps(record | figures, indent=1) + "\n")
        print(f"figures in {out}")
