"""Makes a run's folder of a PyTorch checkpoint: python -m diffusion_jax.interop ckpt.pt --workdir runs/theirs

Which checkpoints: see `diffusion_jax.interop.load`. Then: python sample.py --workdir runs/theirs
"""

import sys
from pathlib import Path

from absl import flags

import diffusion_jax as dj
from diffusion_jax.interop.run_directory import write_run
from diffusion_jax.runtime.checkpoint import CheckpointError


def main(arguments: list[str]) -> None:
    options = _options()
    try:
        paths = options(arguments)[1:]
        if options.help:
            print(f"{__doc__}\n{options.get_help()}")
            return
        if len(paths) != 1 or not options.workdir:
            raise ValueError("give one checkpoint and a folder: ckpt.pt --workdir runs/theirs")
        convert(paths[0], options)
    except (flags.Error, ValueError, OSError, CheckpointError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")


def _options() -> flags.FlagValues:
    """Not absl's common ones: this module may be imported beside train.py and sample.py."""
    options = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "A new folder, for the run.", flag_values=options)
    flags.DEFINE_bool("help", False, "Show this.", flag_values=options)
    for name, meaning in (
        ("image_size", "Side of the pictures; the project's unless given."),
        ("steps", "T of the training; the project's, or the file's, unless given."),
        ("heads", "Attention heads of the FiLM U-Net; 4 unless given."),
        ("groups", "Norm groups of the FiLM U-Net; 4 unless given."),
    ):
        flags.DEFINE_integer(name, None, meaning, flag_values=options)
    return options


def convert(path: str, options: flags.FlagValues) -> None:
    imported = dj.interop.load(
        path,
        image_size=options.image_size,
        steps=options.steps,
        heads=options.heads,
        groups=options.groups,
    )
    workdir = options.workdir
    write_run(workdir, imported.config, imported.params, imported.image_shape, Path(path).name)
    name, shape = type(imported.model).__name__, "x".join(map(str, imported.image_shape))
    print(f"{workdir}: {name} for pictures of {shape}. It has no averaged weights: theirs stand in for them.")
    print(f"python sample.py --workdir {workdir}")


if __name__ == "__main__":
    main(sys.argv)
