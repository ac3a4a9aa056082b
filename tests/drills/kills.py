"""`kill -9` at random moments, and in saves, clean-ups and evaluations: the same command ends with the same bits."""

import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cluster import Cluster
from small_run import Outcome, command, compare, finish, straight, timed


def at_random(seconds: float) -> Callable[[Path, Cluster], None]:
    return lambda run, it: time.sleep(seconds)


def when(found: Callable[[Path], bool]) -> Callable[[Path, Cluster], None]:
    """Waits until something is seen in the directory of the run, or the run has ended."""

    def wait(run: Path, it: Cluster) -> None:
        while it.children[0].poll() is None and not found(run):
            time.sleep(0.001)

    return wait


MOMENTS = {
    "before the first save": when(lambda run: (run / "metrics.jsonl").exists()),
    "in a save": when(lambda run: any(run.glob("checkpoints/*tmp*"))),
    "in a later save": when(lambda run: (run / "checkpoints" / "20").exists() and any(run.glob("checkpoints/*tmp*"))),
    "in the clean-up of old checkpoints": when(lambda run: any(run.glob("checkpoints/.trash/*"))),
    "in an evaluation": when(lambda run: (run / "checkpoints" / "20").exists()),
    "after an evaluation": when(lambda run: "eval_loss" in _read(run / "metrics.jsonl")),
    "while it draws": when(lambda run: (run / "samples").exists()),
}


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def drill(scratch: Path, short: bool, seed: int) -> Iterator[Outcome]:
    with timed() as whole:
        expected = straight(scratch)
    generator = random.Random(seed)
    moments = dict(list(MOMENTS.items())[: 2 if short else None])
    for _ in range((2 if short else 30) - len(moments)):
        seconds = generator.uniform(0.3, 1.0) * whole[0]
        moments[f"after {seconds:.2f} s"] = at_random(seconds)
    for i, (name, wait) in enumerate(moments.items()):
        run = scratch / f"killed_{i}"
        with Cluster(scratch / "logs" / f"kill_{i}", command(scratch, run), 1) as it:
            wait(run, it)
            it.signal(0, signal.SIGKILL)
            it.wait(20)
        yield Outcome(name, finish(scratch, run) or compare(expected, run))
