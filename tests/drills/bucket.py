"""`kill -9` twice at random moments of a run in a bucket: the same command ends with the bits of a local run."""

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import storage_server
from cluster import Cluster
from small_run import Outcome, command, compare, finish, straight

from diffusion_jax.runtime.place import Place, complete_steps, run_path


def drill(scratch: Path, short: bool, seed: int) -> Iterator[Outcome]:
    if not storage_server.is_installed():
        raise RuntimeError('the bucket drill needs a storage server: pip install "diffusion_jax[test]"')
    expected, generator = straight(scratch), random.Random(seed)
    with storage_server.serve("bucket") as environment:
        os.environ.update(environment)
        for i in range(2 if short else 15):
            run = run_path("workdir", f"gs://bucket/killed_{i}")
            steps = [generator.choice([0, 10, 20]), generator.choice([30, 40, 50])]
            for step in steps:
                _kill_after(step, generator.uniform(0, 0.4), scratch, run)
            yield Outcome(f"after the steps {steps}", finish(scratch, run) or compare(expected, run))


def _kill_after(step: int, seconds: float, scratch: Path, run: Place) -> None:
    """Kills the run `seconds` after its checkpoint of this step is complete, or after its start."""
    with Cluster(scratch / "logs" / f"{run.name}_{step}", command(scratch, run), 1) as it:
        while it.children[0].poll() is None and not _has_come_to(step, run):
            time.sleep(0.01)
        time.sleep(seconds)
        it.signal(0, signal.SIGKILL)
        it.wait(20)


def _has_come_to(step: int, run: Place) -> bool:
    return (run / "config.json").exists() and max(complete_steps(run / "checkpoints"), default=0) >= step
