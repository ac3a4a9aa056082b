"""Edits pictures with a run: python -m diffusion_jax.edit reconstruct --workdir runs/digits --image a.png

  image_to_image  adds noise up to time --strength, 0.6 unless given, and draws from there
  inpaint         paints anew what is black in --mask; one mask, or one a picture
  reconstruct     to the noise that DDIM makes the picture of, and back; 100 steps unless given
  interpolate     between the 1st and the 2nd picture, the 3rd and the 4th, ..., by way of their noises
  super_resolve   --factor times as many pixels a side, 2 unless given
  colorise        colours for grey pictures

--image names PNG, JPEG or WebP files, a.png,b.png, of the size that the run draws (super_resolve: that
divided by --factor). --out out.png is a table, a row a picture, input and result; --out with no ending is a
folder with a PNG for each result. How it is drawn is as in the run's config unless given, but that
super_resolve and colorise clip; without --labels pictures are of no particular class.
Transparent pixels are laid on white, and --resize crops, unless the run's own folder of pictures says else.
"""

import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

import diffusion_jax as dj
from diffusion_jax import commands
from diffusion_jax.config.text import grid_from_text, sampler_from_text
from diffusion_jax.edit.tasks import TASKS, Edited, Options
from diffusion_jax.runtime.checkpoint import CheckpointError
from diffusion_jax.runtime.files import make_writable


def main(arguments: list[str]) -> None:
    options = _flags()
    try:
        names = options(arguments)[1:]
        if options.help:
            print(f"{__doc__}\n{options.get_help()}")
            return
        if not names or names[0] not in TASKS:
            raise ValueError(f"give one task: {', '.join(TASKS)}; --help says more")
        commands.no_more(names[1:])
        edit(names[0], options)
    except (flags.Error, ValueError, OSError, CheckpointError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")


def _flags() -> flags.FlagValues:
    """Not absl's common ones: this module may be imported beside train.py and sample.py."""
    options = flags.FlagValues()

    def define(kind: Any, name: str, default: Any, meaning: str, **limits: Any) -> None:
        kind(name, default, meaning, flag_values=options, **limits)

    define(flags.DEFINE_bool, "help", False, "Show this.")
    define(flags.DEFINE_string, "workdir", None, "Folder of the run.")
    define(flags.DEFINE_list, "image", [], "Picture files.")
    define(flags.DEFINE_string, "out", "edited.png", "A table, .png, or a new folder.")
    define(flags.DEFINE_list, "labels", None, "Classes, numbers or names, in turn; 'none' for no class.")
    define(flags.DEFINE_float, "guidance", None, "Classifier-free scale; needs labels.")
    define(flags.DEFINE_bool, "clip", None, "Clip x0 to [-1, 1] at each step.")
    define(flags.DEFINE_integer, "steps", None, "Steps from noise to data.", lower_bound=1)
    define(flags.DEFINE_string, "sampler", None, "DDPM, DDIM, Heun, ..., with arguments as in DDIM(eta=0.5).")
    define(flags.DEFINE_string, "grid", None, "At which times, such as Uniform or UniformLogSNR.")
    define(flags.DEFINE_bool, "resize", False, "Crop and resize pictures of another size.")
    define(flags.DEFINE_float, "strength", None, "image_to_image: from this time on, in (0, 1].")
    define(flags.DEFINE_list, "mask", None, "inpaint: pictures, white where the picture is kept.")
    define(flags.DEFINE_integer, "resamples", None, "inpaint: times each stretch is gone through; 5.")
    define(flags.DEFINE_integer, "jump_length", None, "inpaint: steps of such a stretch; 1.")
    define(flags.DEFINE_integer, "frames", None, "interpolate: pictures between, both ends counted; 9.")
    define(flags.DEFINE_integer, "factor", None, "super_resolve: how many times as large; 2.")
    define(flags.DEFINE_float, "noise_std", None, "Deviation of the noise on the pictures given; 0.")
    define(
        flags.DEFINE_integer,
        "seed",
        0,
        "Picture i depends on the seed and i alone.",
        lower_bound=0,
        upper_bound=2**32 - 1,
    )
    define(flags.DEFINE_bool, "allow_code", False, "Import the run's own components.")
    return options


_PER_TASK = sorted({name for task in TASKS.values() for name in task.flags})


def edit(name: str, options: flags.FlagValues) -> None:
    task = TASKS[name]
    given = commands.given({flag: options[flag].value for flag in _PER_TASK}, task.flags, name)
    paths = options.image
    for flag in ("workdir", "image", *["mask"] * ("mask" in task.flags)):
        value = options[flag].value
        if not value:
            raise ValueError(f"--{flag}: give it; --help says what is needed")
        if isinstance(value, list) and "" in value:
            raise ValueError(f"--{flag} {','.join(value)}: has a comma and no name beside it")
    out = commands.free_path(options.out, (".png", ""))
    commands.spared(out, [*paths, *(given.get("mask") or [])])
    if "sampler" in given:
        given["sampler"] = sampler_from_text(given["sampler"], options.allow_code)
    if "grid" in given:
        given["grid"] = grid_from_text(given["grid"])
    run = dj.load(options.workdir, allow_code=options.allow_code)
    if "labels" in given:
        rows = len(paths) // 2 if name == "interpolate" else len(paths)
        given["labels"] = commands.classes(given["labels"], run.class_names, rows)
    make_writable(out.parent if out.suffix else out)
    edited = task.run(run, jax.random.key(options.seed), paths, Options(resize=options.resize, **given))
    _write(edited, out)
    print(f"{name}: {len(paths)} picture(s) in, {out} out{edited.remark}")


def _write(edited: Edited, out: Path) -> None:
    """A table of what was given and made, or a folder of what was made, picture by picture."""
    made = np.stack(list(edited.made.values()), axis=1)
    if not out.suffix:
        dj.images.save_folder(made.reshape(-1, *made.shape[2:]), out)
        return
    columns = edited.given | edited.made
    dj.images.save(dj.images.table(np.stack(list(columns.values()), 1), columns=list(columns)), out)


if __name__ == "__main__":
    main(sys.argv)
