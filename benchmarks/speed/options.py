"""What the commands share: flags, the start of the process, and how an expected error ends it."""

import os
import sys
from pathlib import Path
from typing import Any

from absl import logging
from cases import NETWORKS

from diffusion_jax.cli.command import Command, Flag
from diffusion_jax.cli.devices import check_devices
from diffusion_jax.cli.errors import exit_code
from diffusion_jax.cli.flags import make_parent, parse_out

NETWORK = Flag("network", NETWORKS, "The network.", "digits")
BATCH = Flag("batch", int, "Images per batch. Default: the network's own.", limits={"lower_bound": 1})
DTYPE = Flag("dtype", ("float32", "bfloat16"), "Of the computation; parameters stay float32.", "float32")
ROUNDS = Flag("rounds", int, "Rounds in which all take turns.", 5, limits={"lower_bound": 1})
SECONDS = Flag("seconds", float, "Length of a turn; at least one call is made.", 1.0)
THREADS = Flag("threads", int, "CPU cores to use; 0 for all.", 0, limits={"lower_bound": 0})
BUDGET = Flag("budget", float, "Seconds for the whole command; what does not fit is left out. 0: no limit.", 0.0)
JSON = Flag("json", str, "Write all figures to this .json file too.")


def run(command: Command) -> None:
    """Runs a benchmark's command line; an expected error is one line and the exit code 1."""
    logging.set_verbosity(logging.ERROR)
    sys.exit(exit_code(lambda: command(sys.argv[1:])))


def start(options: Any) -> Path | None:
    """Checks the flags, chooses the cores and starts JAX; returns the file of --json.

    JAX takes GPU memory as it needs it, because PyTorch shares the device.
    """
    for name in ("seconds", "budget"):
        if name in options and not 0 <= options[name].value < float("inf"):
            raise ValueError(f"--{name} = {options[name].value}: must be a number of seconds >= 0")
    out = parse_out(options.json, (".json",), "--json") if options.json else None
    if out is not None:
        make_parent(out)
    if "threads" in options:
        choose_cores(options.threads)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    check_devices()
    return out


def choose_cores(threads: int) -> None:
    """Restricts this process to `threads` cores, 0 for no change. Both libraries then start as many threads."""
    if not threads:
        return
    if not hasattr(os, "sched_setaffinity"):
        raise ValueError(f"--threads = {threads}: needs Linux; leave it out")
    cores = sorted(os.sched_getaffinity(0))
    if threads > len(cores):
        raise ValueError(f"--threads = {threads}: this process has {len(cores)} cores; use at most {len(cores)}")
    os.sched_setaffinity(0, cores[:threads])
    os.environ["OMP_NUM_THREADS"] = str(threads)


def parse_names(flag: str, names: list[str], known: tuple[str, ...]) -> list[str]:
    """The names of a list flag without repetitions. Raises ValueError for one that is not known."""
    for name in names:
        if name not in known:
            raise ValueError(f'--{flag} = "{name}": must be some of {", ".join(known)}, separated by commas')
    return list(dict.fromkeys(names))
