"""How every benchmark begins and ends: all words taken by flags, a mistake told in one line."""

import sys
from collections.abc import Callable

from absl import app, logging

from diffusion_jax.commands import no_more
from diffusion_jax.runtime.checkpoint import CheckpointError


def run(measure: Callable[[], None]) -> None:
    """Takes the flags from the command line and calls `measure`."""

    def main(arguments: list[str]) -> None:
        logging.set_verbosity(logging.ERROR)
        try:
            no_more(arguments[1:])
            measure()
        except (ValueError, OSError, CheckpointError) as error:
            sys.exit(f"error: {error}")

    app.run(main)
