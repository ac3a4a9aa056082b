"""The entry point of `diffusion-jax`."""

import functools
import logging
import os
import sys
from collections.abc import Sequence

from diffusion_jax.cli import demo, edit, export, import_weights, preflight, report, sample, train, verify
from diffusion_jax.cli.command import Group
from diffusion_jax.cli.errors import exit_code
from diffusion_jax.cli.terminal import install_logging
from diffusion_jax.runtime.user_cache import keep_programs

MAIN = Group(
    "diffusion-jax",
    "Image diffusion in JAX.",
    {
        "train": train.COMMAND,
        "sample": sample.COMMAND,
        "edit": edit.COMMAND,
        "demo": demo.COMMAND,
        "import": import_weights.COMMAND,
        "export": export.COMMAND,
        "preflight": preflight.COMMAND,
        "report": report.COMMAND,
        "verify": verify.COMMAND,
    },
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code; `arguments` are those behind `diffusion-jax`, default sys.argv."""
    if arguments is None:
        sys.path.append(os.getcwd())  # for my_pkg.my_module:Mine; a console script does not look here by itself
        arguments = sys.argv[1:]
    install_logging()
    keep_programs()
    logging.getLogger("diffusion_jax").setLevel(logging.INFO)
    return exit_code(functools.partial(MAIN, arguments))
