"""One comparison of this library with its rivals, from the flags to the table."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import options
import ours
import rivals
from cases import Case, describe_twin, find_case
from measuring import Budget, Contestant, compare
from results import compare_rows, describe_results, markdown, report
from torch_twins import ORIGINS, Twin

from diffusion_jax.cli.command import Flag
from diffusion_jax.cli.terminal import one_line
from diffusion_jax.preflight.text import format_count

# The flags of every comparison.
FLAGS = (
    options.NETWORK,
    options.BATCH,
    options.DTYPE,
    Flag("rivals", list, f"Rows of PyTorch, some of {', '.join(rivals.RIVALS)}.", rivals.DEFAULT),
    options.ROUNDS,
    options.SECONDS,
    options.THREADS,
    options.BUDGET,
    options.JSON,
)


@dataclasses.dataclass(frozen=True)
class Task:
    """What all contestants compute.

    Attributes:
      case, twin: the network, for JAX and for PyTorch.
      batch: images per call.
      platform: JAX's name of the kind of device.
    """

    case: Case
    twin: Twin
    batch: int
    platform: str

    @classmethod
    def from_flags(cls, flags: Any, steps: int = 1) -> "Task":
        """The task that --network, --dtype and --batch describe, with `steps` of sampling."""
        case = find_case(flags.network, flags.dtype)
        return cls(case, describe_twin(case, steps), flags.batch or case.batch, jax.default_backend())


def tell(text: str) -> None:
    """Progress, on stderr, so that the table can be redirected."""
    print(f"  {one_line(text)}", file=sys.stderr, flush=True)


def run_comparison(
    benchmark: str, task: Task, contestants: Sequence[Contestant], unit: str, steps: int, flags: Any, out: Path | None
) -> None:
    """Measures the contestants, prints the table and writes the figures. `steps` network calls are one call."""
    budget = Budget(flags.budget)
    ceiling = ours.measure_ceiling(flags.dtype)
    results = compare(contestants, flags.rounds, flags.seconds, budget, tell)
    items = task.batch * steps
    settings = {
        "network": task.case.name,
        "in PyTorch": ORIGINS[task.twin.kind],
        "image": "x".join(map(str, task.case.image_shape)),
        "batch": task.batch,
        "dtype": flags.dtype,
        "rounds": max(len(result.seconds) for result in results),
    }
    settings |= {"steps": steps} if steps > 1 else {}
    notes = [f"- {result.name}: {result.note}." for result in results if result.note]
    notes.append(f"- The ceiling is {format_count(ceiling, 'FLOP/s')}: a product of two large {flags.dtype} matrices.")
    table = "\n".join([markdown(compare_rows(results, items, unit, ceiling)), "", *notes])
    figures = {"matmul_flops_per_second": ceiling, "rows": describe_results(results, items, ceiling)}
    report(benchmark, settings, table, figures, out)
