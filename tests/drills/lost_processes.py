"""One of two processes killed or stopped: both end within 20 seconds, and the run goes on with one process or two."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

from cluster import Cluster
from small_run import Outcome, command, compare, finish, straight, timed

LIMIT = 20


def drill(scratch: Path, short: bool, seed: int) -> Iterator[Outcome]:
    expected = straight(scratch, processes=2)
    cases = [(number, process) for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT) for process in (0, 1)]
    for i, (number, process) in enumerate(cases[1::2] if short else cases):
        run = scratch / f"lost_{i}"
        with Cluster(scratch / "logs" / f"lost_{i}", command(scratch, run), 2) as it:
            it.wait_for_file(run / "checkpoints" / "10")
            time.sleep(0.2 * i)
            with timed() as took:
                it.signal(process, number)
                codes = it.wait(60)
            problem = f"exit codes {codes}" if 0 in codes else ""
        if took[0] > LIMIT:
            problem = f"took {took[0]:.1f} s"
        problem = problem or finish(scratch, run, processes=2) or compare(expected, run)
        yield Outcome(f"{number.name} to process {process}", problem, took[0])
    run = scratch / "lost_at_the_start"
    with Cluster(scratch / "logs" / "lost_at_the_start", command(scratch, run), 2) as it:
        it.wait_for_file(run / "config.json")
        with timed() as took:
            it.signal(1, signal.SIGTERM)
            codes = it.wait(60)
    problem = (f"exit codes {codes}" if 0 in codes else "") or ("" if took[0] < LIMIT else f"took {took[0]:.1f} s")
    problem = problem or finish(scratch, run, processes=2) or compare(expected, run)
    yield Outcome("SIGTERM before the training", problem, took[0])
    yield Outcome("one process goes on", finish(scratch, expected, "--config.train.steps=70"))
    yield Outcome("and two again", finish(scratch, expected, "--config.train.steps=80", processes=2))
