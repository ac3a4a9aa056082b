"""Edits images with a trained run.

    diffusion-jax edit inpaint --workdir runs/digits --image a.png,b.png --mask mask.png --labels 3,8 --out mended.png
    diffusion-jax edit reconstruct --workdir runs/digits --image a.png
    diffusion-jax edit super_resolve --workdir runs/digits --image small.png --factor 2

The images must have the size that the run generates (super_resolve: that size divided by --factor), or use --resize.
--out out.png writes the result of a single image, and for several images, or with --table, a table with one row per
image: inputs and results. --out with no ending writes a directory with one PNG file per result. Transparent pixels
become white and --resize crops to the centre, unless the run was trained on a directory of images with another
background or crop.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from absl.flags import FlagValues

import diffusion_jax as dj
from diffusion_jax.cli import flags
from diffusion_jax.cli.command import Command, Flag, Group
from diffusion_jax.cli.labels import parse_labels, repeat_labels
from diffusion_jax.cli.terminal import one_line

if TYPE_CHECKING:
    from diffusion_jax.edit.tasks import Edited

_EVERY_TASK = (
    *flags.RUN,
    Flag("image", list, "Image files: PNG, JPEG, WebP, TIFF and others.", required=True),
    Flag("out", str, "Output path: an image or a table, .png, or a new directory.", "edited.png"),
    Flag("table", bool, "Write a table of input and result for a single image too.", False),
    flags.SCALE._replace(
        help="Side of the square that each pixel becomes; default: 1, in a table for 96 pixels a side."
    ),
    Flag("resize", bool, "Crop and resize images of another size.", False),
    flags.SEED,
    flags.ALLOW_CODE,
)
_SHARED = (
    flags.LABELS,
    flags.GUIDANCE._replace(help="Scale of classifier-free guidance; needs --labels; default: the run's."),
    flags.GRID,
)
_GENERATE = (*_SHARED, flags.STEPS, flags.SAMPLER, flags.CLIP)
_THERE_AND_BACK = (*_SHARED, flags.STEPS._replace(help="Steps to noise, and back; default: 100."), flags.CLIP)
_RESTORE = (
    *_SHARED,
    flags.STEPS,
    flags.SAMPLER,
    flags.CLIP._replace(help="Clip x0 to [-1, 1] at every step; default: yes."),
)
_NOISE_STD = Flag("noise_std", float, "Noise on the input images, as a standard deviation.", 0.0)


def run(task: str, own: tuple[Flag, ...], settings: tuple[Flag, ...], options: FlagValues) -> None:
    out = flags.parse_out(options.out, (".png", ""))
    check_inputs("image", options.image, out)
    if task == "inpaint":
        check_inputs("mask", options.mask, out)
    values = flags.set_flags(options, [flag.name for flag in settings])
    loaded = flags.load_run(options)
    import jax

    from diffusion_jax.edit import tasks
    from diffusion_jax.edit.job import Job

    if "labels" in values:
        rows = len(options.image) // 2 if task == "interpolate" else len(options.image)
        labels = parse_labels(values["labels"], loaded.class_names, loaded.network.num_classes)
        values["labels"] = None if labels is None else repeat_labels(labels, rows)
    flags.make_parent(out)
    job = Job(loaded, jax.random.key(options.seed), options.image, options.resize, **values)
    edited = getattr(tasks, task)(job, **{flag.name: options[flag.name].value for flag in own})
    write_edited(edited, out, options.scale, options.table)
    print(one_line(f"{task}: {len(options.image)} image(s) in, {out} out{edited.remark}"))


def check_inputs(flag: str, paths: Sequence[str], out: Path) -> None:
    """Raises ValueError if a path is empty, or is the file that --out would overwrite."""
    if "" in paths:
        raise ValueError(f"--{flag}={','.join(paths)}: has a comma with no name beside it")
    for path in paths:
        if out.exists() and Path(path).exists() and out.samefile(path):
            raise ValueError(f"--out={out}: is one of the input images; name another file")


def write_edited(edited: "Edited", out: Path, scale: int | None = None, table: bool = False) -> None:
    """Writes a directory of outputs, image by image, or a single output, or a table of inputs and outputs."""
    outputs = np.concatenate(list(np.stack(list(edited.outputs.values()), axis=1)))
    if not out.suffix:
        dj.images.save_folder(outputs, out, scale=scale or 1)
    elif len(outputs) == 1 and not table:
        dj.images.save(dj.images.to_image(outputs[0], scale or 1), out)
    else:
        columns = edited.inputs | edited.outputs
        tiles = np.stack(list(columns.values()), 1)
        dj.images.save(dj.images.table(tiles, columns=list(columns), scale=scale), out)


def _task(name: str, text: str, settings: tuple[Flag, ...], *own: Flag) -> Command:
    example = f"diffusion-jax edit {name} --workdir runs/digits --image a.png{' --mask mask.png' * (name == 'inpaint')}"
    return Command(
        name=f"diffusion-jax edit {name}",
        text=f"{text}\n\n    {example}",
        flags=(*_EVERY_TASK, *own, *settings),
        run=functools.partial(run, name, own, settings),
    )


_TASKS = (
    _task(
        "image_to_image",
        "Adds noise up to time --strength and samples from there.",
        _GENERATE,
        Flag("strength", float, "Time to start from, in (0, 1].", 0.6),
    ),
    _task(
        "inpaint",
        "Repaints the pixels that are black in --mask, and keeps the white ones; --invert_mask turns that round.",
        _GENERATE,
        Flag("mask", list, "Image files, white where the image is kept: one, or one per image.", required=True),
        Flag("invert_mask", bool, "Repaint the white pixels, and keep the black ones.", False),
        Flag("resamples", int, "Number of times that each stretch of steps is taken.", 5),
        Flag("jump_length", int, "Steps in such a stretch.", 1),
    ),
    _task("reconstruct", "Inverts DDIM to find the noise of each image, and generates it again.", _THERE_AND_BACK),
    _task(
        "interpolate",
        "Interpolates from the first to the second image, from the third to the fourth, ..., through their noises.",
        _THERE_AND_BACK,
        Flag("frames", int, "Images per pair, both ends included.", 9, limits={"lower_bound": 2}),
    ),
    _task(
        "super_resolve",
        "Generates images of --factor times the height and width.",
        _RESTORE,
        Flag("factor", int, "Factor of the height and width.", 2),
        _NOISE_STD,
    ),
    _task("colorise", "Generates colours for grey images.", _RESTORE, _NOISE_STD),
)
COMMAND = Group("diffusion-jax edit", str(__doc__), {task.name.split()[-1]: task for task in _TASKS})
