"""The flags with which several processes find each other."""

import logging

from absl.flags import FlagValues

import diffusion_jax as dj
from diffusion_jax.cli.command import Flag
from diffusion_jax.cli.terminal import install_logging

FLAGS = (
    Flag("coordinator_address", str, "host:port of process 0. Not needed on TPU pods, under SLURM and Open MPI."),
    Flag("num_processes", int, "How many processes work together."),
    Flag("process_id", int, "Which of them this one is, from 0."),
)


def initialize_from_flags(options: FlagValues) -> None:
    """Joins the other processes, if there are any. All but process 0 then only log warnings."""
    if not dj.processes.initialize(options.coordinator_address, options.num_processes, options.process_id):
        return
    import jax

    install_logging(f"process {jax.process_index()}: ")
    if not dj.processes.is_owner():
        logging.getLogger("diffusion_jax").setLevel(logging.WARNING)
