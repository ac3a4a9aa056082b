"""Trains the experiment of a config.

    diffusion-jax train --config digits --workdir runs/digits --config.train.steps=500

Running the same command again resumes from the newest checkpoint. Ctrl-C and SIGTERM save a checkpoint first; a
second one stops at once.
"""

from absl.flags import FlagValues
from ml_collections import ConfigDict

import diffusion_jax as dj
from diffusion_jax.cli import processes
from diffusion_jax.cli.command import Command, Flag
from diffusion_jax.cli.devices import check_devices
from diffusion_jax.cli.terminal import one_line


def run(options: FlagValues, config: ConfigDict) -> None:
    processes.initialize_from_flags(options)
    check_devices()
    dj.train(config, options.workdir, accept=options.accept)
    if dj.processes.is_owner():
        from diffusion_jax.runtime.place import run_path

        grid = run_path("workdir", options.workdir) / "samples.png"
        print(one_line(f"done; samples are in {options.workdir}/samples{'.png' * grid.exists()}"))


COMMAND = Command(
    name="diffusion-jax train",
    text=str(__doc__),
    flags=(
        Flag("workdir", str, "Directory of the run, or gs://bucket/run; created if it does not exist.", required=True),
        Flag("accept", list, "Fields that differ from the run in --workdir, to go on with: train.batch_size.", []),
        *processes.FLAGS,
    ),
    run=run,
    takes_config=True,
)
