"""Trains the experiment of a config.

    diffusion-jax train --config digits --workdir runs/digits --config.train.steps=500

Running the same command again resumes from the newest checkpoint. Ctrl-C and SIGTERM save a checkpoint first; a
second one stops at once.
"""

import contextlib
import signal
import sys
from collections.abc import Iterator

from absl.flags import FlagValues
from ml_collections import ConfigDict

import diffusion_jax as dj
from diffusion_jax.cli.command import Command, Flag
from diffusion_jax.cli.devices import check_devices


def run(options: FlagValues, config: ConfigDict) -> int:
    check_devices()
    with _stop_signals() as received:
        complete = dj.train(config, options.workdir, should_stop=lambda: bool(received))
    if not complete:
        print("stopped; run the same command to resume", file=sys.stderr)
        return 128 + received[0]
    print(f"done; samples are in {options.workdir}/samples.png")
    return 0


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM in a list; a second signal of a kind acts as usual."""
    received: list[int] = []

    def collect(number: int, _: object) -> None:
        received.append(number)
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, collect) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


COMMAND = Command(
    name="diffusion-jax train",
    text=str(__doc__),
    flags=(Flag("workdir", str, "Directory of the run; created if it does not exist.", required=True),),
    run=run,
    takes_config=True,
)
