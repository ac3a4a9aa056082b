"""How every benchmark starts: flags are parsed, an expected error is one line, and the run's data are opened."""

import sys
from collections.abc import Callable

from absl import app, flags, logging

import diffusion_jax as dj
from diffusion_jax.cli.command import check_no_words
from diffusion_jax.cli.errors import exit_code
from diffusion_jax.config.experiment import build_dataset

DATA_DIR = flags.DEFINE_string("data_dir", None, "Directory of the data; default: as in the run's config.")


def run(measure: Callable[[], None]) -> None:
    """Parses the command line and calls `measure`."""

    def main(arguments: list[str]) -> None:
        logging.set_verbosity(logging.ERROR)
        sys.exit(exit_code(lambda: check_no_words(arguments[1:]) or measure()))

    app.run(main)


def open_data(run: dj.Run) -> tuple[dj.sources.Source, dj.sources.Source]:
    """Returns the training and the held-out examples of a run."""
    changes = {"data_dir": DATA_DIR.value} if DATA_DIR.value else {}
    return build_dataset(run.config | {"data": run.config["data"] | changes}, allow_code=False).open()
