"""The run that the drills are made on, and what they share."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from checkpoints import assert_same_run
from cluster import TESTS, Cluster

# Saves, evaluates and draws often, so that random moments hit all of them.
TRAIN = {"steps": 60, "log_every": 5, "eval_every": 20, "sample_every": 20, "checkpoint_every": 10, "eval_examples": 64}
CONFIG = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
import ml_collections, tiny
def get_config():
    return ml_collections.ConfigDict(tiny.config(tiny.AFFINE, **{TRAIN!r}))
"""


class Outcome(NamedTuple):
    """How one fault ended. `problem` is empty if it was survived; `seconds` is how long the fault took to end."""

    case: str
    problem: str = ""
    seconds: float = 0.0


def command(scratch: Path, run: Path, *flags: str) -> list[str]:
    """The arguments of `diffusion-jax` that train the small run."""
    config = scratch / "small_config.py"
    config.write_text(CONFIG)
    return ["train", f"--config={config}", f"--workdir={run}", *flags]


def finish(scratch: Path, run: Path, *flags: str, processes: int = 1) -> str:
    """Runs the command to its end; returns what is wrong, or ""."""
    with Cluster(
        scratch / "logs" / f"{run.name}_{time.monotonic_ns()}", command(scratch, run, *flags), processes
    ) as it:
        codes = it.wait(300)
        return "" if codes == [0] * processes else f"ended with {codes}: {it.text()[-500:]}"


def straight(scratch: Path, *flags: str, processes: int = 1) -> Path:
    """The run without any fault."""
    run = scratch / f"straight_{processes}"
    if problem := finish(scratch, run, *flags, processes=processes):
        raise RuntimeError(problem)
    return run


def compare(expected: Path, found: Path) -> str:
    """What differs in the final state and the metrics of two runs, or ""."""
    try:
        assert_same_run(expected, found)
    except Exception as error:
        return f"differs: {' '.join(str(error).split())[:200]}"
    return ""


@contextlib.contextmanager
def timed() -> Iterator[list[float]]:
    seconds: list[float] = []
    start = time.monotonic()
    yield seconds
    seconds.append(time.monotonic() - start)


def run_python(code: str, *arguments: object, timeout: float = 300, **kwargs) -> subprocess.CompletedProcess:
    """Runs Python code in a process of its own, in the directory of the tests."""
    words = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=timeout, cwd=TESTS, **kwargs)
