"""A full disk, by a limit on the size of files, and directories that cannot be written: one line each, and no hang."""

from collections.abc import Iterator
from pathlib import Path

from cluster import environment
from small_run import Outcome, command, compare, finish, run_python, straight, timed

LIMITED = """
import os, resource, sys
size = int(sys.argv[1])
if size >= 0:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


def drill(scratch: Path, short: bool, seed: int) -> Iterator[Outcome]:
    expected = straight(scratch)
    for size in (300, 2_000) if short else (100, 300, 1_000, 2_000, 4_000, 8_000):
        run = scratch / f"full_{size}"
        code, text, seconds = run_limited(command(scratch, run), size)
        # Where nothing of a checkpoint fits, the run is refused; otherwise it trains on, and the last save fails.
        problem = "" if code in (0, 1) and "Traceback" not in text else f"exit code {code}: {text[-500:]}"
        problem = problem or check_lines(text) or finish(scratch, run) or compare(expected, run)
        yield Outcome(f"files of at most {size} bytes", problem, seconds)
    for run in (Path("/proc/run"), Path("/dev/null/run")):
        code, text, seconds = run_limited(command(scratch, run), -1)
        lines = [line for line in text.splitlines() if line.strip()]
        problem = "" if code == 1 and len(lines) == 1 else f"exit code {code}: {text[-500:]}"
        yield Outcome(f"workdir {run}", problem, seconds)


def run_limited(words: list[str], size: int) -> tuple[int, str, float]:
    """(exit code, output, seconds) of a command whose files may have `size` bytes at most; -1: any size."""
    with timed() as seconds:
        done = run_python(LIMITED, size, "-m", "diffusion_jax", *words, timeout=120, env=environment(1))
    return done.returncode, done.stderr, seconds[0]


def check_lines(text: str) -> str:
    """What is wrong with the log: a fault is told in a line or two, not in hundreds."""
    lines = [line for line in text.splitlines() if line.strip() and "img" not in line]
    return "" if len(lines) <= 30 else f"{len(lines)} lines, such as {lines[len(lines) // 2][:200]}"
