"""How every benchmark starts: flags are parsed, and an expected error is one line."""

import sys
from collections.abc import Callable

from absl import app, logging

from diffusion_jax.cli.command import check_no_words
from diffusion_jax.cli.errors import exit_code


def run(measure: Callable[[], None]) -> None:
    """Parses the command line and calls `measure`."""

    def main(arguments: list[str]) -> None:
        logging.set_verbosity(logging.ERROR)
        sys.exit(exit_code(lambda: check_no_words(arguments[1:]) or measure()))

    app.run(main)
