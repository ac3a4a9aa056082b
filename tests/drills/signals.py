"""SIGTERM and SIGINT in all phases: an end within 10 seconds that says so, and the same bits after resuming."""

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from cluster import Cluster
from small_run import Outcome, command, compare, finish, straight, timed

LIMIT = 10


def drill(scratch: Path, short: bool, seed: int) -> Iterator[Outcome]:
    with timed() as whole:
        expected = straight(scratch)
    generator = random.Random(seed)
    for i in range(1 if short else 10):
        number = generator.choice([signal.SIGTERM, signal.SIGINT])
        seconds = generator.uniform(0.05, 1.0) * whole[0]
        run = scratch / f"stopped_{i}"
        with Cluster(scratch / "logs" / f"stop_{i}", command(scratch, run), 1) as it:
            time.sleep(seconds)
            with timed() as took:
                it.signal(0, number)
                (code,) = it.wait(60)
            # Before the training starts there is nothing to save: the signal ends the process as usual.
            problem = "" if code in (0, 128 + number, -number) else f"exit code {code}: {it.text()[-300:]}"
        if took[0] > LIMIT:
            problem = f"took {took[0]:.1f} s"
        problem = problem or finish(scratch, run) or compare(expected, run)
        yield Outcome(f"{number.name} after {seconds:.2f} s", problem, took[0])
