"""Makes a run's directory from a PyTorch checkpoint of another project.

    diffusion-jax import ckpt.pt --workdir runs/theirs
    diffusion-jax sample --workdir runs/theirs

The docstring of `diffusion_jax.interop.load` lists the projects. PyTorch is not needed, and no code of the file is run.
"""

from pathlib import Path

from absl.flags import FlagValues

import diffusion_jax as dj
from diffusion_jax.cli.command import Command, Flag
from diffusion_jax.cli.devices import check_devices
from diffusion_jax.cli.terminal import one_line

_SETTINGS = (
    Flag("image_size", int, "Side of the images; default: the project's own."),
    Flag("steps", int, "Number of training times T; default: as in the file, else the project's own."),
    Flag("heads", int, "Attention heads of the FiLM U-Net; default: 4."),
    Flag("groups", int, "Norm groups of the FiLM U-Net; default: 4."),
)


def run(options: FlagValues, path: str) -> None:
    check_devices()
    from diffusion_jax.interop.run_directory import write_run

    imported = dj.interop.load(path, **{flag.name: options[flag.name].value for flag in _SETTINGS})
    write_run(options.workdir, imported.config, imported.params, imported.image_shape, Path(path).name)
    name, shape = type(imported.model).__name__, "x".join(map(str, imported.image_shape))
    workdir = one_line(options.workdir)
    print(f"{workdir}: {name} for images of {shape}. The file has no averaged weights; its weights are used.")
    print(f"diffusion-jax sample --workdir {workdir}")


COMMAND = Command(
    name="diffusion-jax import",
    text=str(__doc__),
    flags=(Flag("workdir", str, "New directory for the run, or gs://bucket/run.", required=True), *_SETTINGS),
    run=run,
    operands=("CHECKPOINT",),
)
