"""Draws pictures from a run: python sample.py --workdir runs/digits --num_samples 64 --out samples.png

--show says what is drawn:

  grid           pictures under their classes. The ending of --out says what is written: .png a grid, .npz the
                 arrays `image` (uint8) and `label`, no ending a folder of PNGs
  strip          how pictures come out of noise: a column a time, x_t over the network's guess of x0
  animation      the same as a moving grid, .gif or .webp
  forward        how held-out pictures of the run's data drown in noise: a column a time
  interpolation  from the noise of picture 0 to that of 1, from 2 to 3, ..., by slerp: a row a pair
  guidance       a row a class, a column a scale of guidance; the same noise along a row
"""

import dataclasses
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags


@dataclasses.dataclass(frozen=True)
class Show:
    """What goes with a --show: the endings of --out, and the flags that have a meaning."""

    flags: tuple[str, ...]
    endings: tuple[str, ...] = (".png",)


_GUIDANCE = ("guidance_interval", "guidance_rescale", "weaker")
_DRAWING = ("labels", "steps", "sampler", "grid", "clip", "threshold", "batch_size", *_GUIDANCE)
_SHOWS = {
    "grid": Show((*_DRAWING, "num_samples", "guidance"), (".png", ".npz", "")),
    "strip": Show((*_DRAWING, "num_samples", "guidance", "frames")),
    "animation": Show((*_DRAWING, "num_samples", "guidance", "frames"), (".gif", ".webp")),
    "forward": Show(("num_samples", "frames")),
    "interpolation": Show((*_DRAWING, "num_samples", "guidance", "frames")),
    "guidance": Show((*_DRAWING, "scales")),
}
_PICTURES = {"grid": 64, "animation": 16}  # --num_samples unless given; 4 for the others

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
_SHOW = flags.DEFINE_enum("show", "grid", list(_SHOWS), "What is drawn; see above.")
_NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples", None, "How many pictures (rows, pairs); 64 for a grid, 16 for an animation, else 4."
)
_LABELS = flags.DEFINE_list(
    "labels", None, "Classes, numbers or names, in turn; all of them unless given; 'none' for no class."
)
flags.DEFINE_integer("steps", None, "Reverse steps; the config's unless given.")
_SAMPLER = flags.DEFINE_string(
    "sampler", None, "DDPM, DDIM, Heun, DPMSolverPP, ..., with arguments as in DDIM(eta=0.5)."
)
_GRID = flags.DEFINE_string(
    "grid",
    None,
    "At which times: Uniform, UniformLogSNR, Karras, Leading, with arguments as in UniformLogSNR(last=0.01).",
)
flags.DEFINE_bool("clip", None, "Clip x0 to [-1, 1] at each step; the config's unless given.")
flags.DEFINE_float("threshold", None, "Dynamic thresholding at this quantile of |x0|, such as 0.995; 0 for none.")
flags.DEFINE_float("guidance", None, "Classifier-free scale; the config's unless given.")
_INTERVAL = flags.DEFINE_list(
    "guidance_interval", None, "Two noise levels sigma/alpha between which guidance acts, such as 0.3,3."
)
flags.DEFINE_float("guidance_rescale", None, "How far guidance keeps the contrast, 0 to 1; the config's unless given.")
_WEAKER = flags.DEFINE_string(
    "weaker", None, "Folder of a worse run, from which guidance leads away in place of no class."
)
flags.DEFINE_integer(
    "frames",
    None,
    "Columns, 9 unless given, or frames of an animation, 40; where steps matter, steps + 1 at most.",
)
_SCALES = flags.DEFINE_list("scales", None, "Guidance scales, one a column; 0,1,2,4 unless given.")
_SEED = flags.DEFINE_integer(
    "seed", 0, "Picture i depends on the seed and i alone.", lower_bound=0, upper_bound=2**32 - 1
)
flags.DEFINE_integer("batch_size", None, "Pictures at once; changes no picture.")
_OUT = flags.DEFINE_string(
    "out", None, "samples.png, or samples.gif for an animation, unless given; a grid also .npz or a folder."
)
_ALLOW_CODE = flags.DEFINE_bool("allow_code", False, "Import the run's own components.")


def main(arguments: list[str]) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    from diffusion_jax.commands import no_more
    from diffusion_jax.runtime.checkpoint import CheckpointError

    try:
        no_more(arguments[1:])
        draw()
    except (ValueError, OSError, CheckpointError) as error:
        sys.exit(f"error: {error}")


def draw() -> None:
    import jax

    import diffusion_jax as dj
    from diffusion_jax.runtime.files import make_writable

    show = _SHOW.value
    n = _PICTURES.get(show, 4) if _NUM_SAMPLES.value is None else _NUM_SAMPLES.value
    check_flags(show, n)
    out = checked_out(show)
    given = settings()
    run, key = dj.load(_WORKDIR.value, allow_code=_ALLOW_CODE.value), jax.random.key(_SEED.value)
    given |= guidance(run, given)
    make_writable(out.parent if out.suffix else out)
    if show == "guidance":
        rows = None if _LABELS.value is None else class_row(len(_LABELS.value), run)
        if rows is None and _LABELS.value is not None:
            raise ValueError("--labels none: guidance leads to a class; name some, or leave them out")
        dj.images.save(dj.figures.guidance(run, key, labels=rows, progress=True, **given), out)
    elif show == "forward":
        x0, labels = dj.figures.held_out(run, n, _ALLOW_CODE.value)
        dj.images.save(dj.figures.forward(run, key, x0, labels=labels, **given), out)
    else:
        labels = class_row(n, run)
        draw_samples(show, run, key, n, out, labels=labels, progress=True, **given)
    print(f"{n} pictures in {out}" if show == "grid" else f"{show} in {out}")


def draw_samples(show: str, run: Any, key: Any, n: int, out: Path, **given: Any) -> None:
    """The figures of n samples of the run."""
    from diffusion_jax import figures, images, pixels

    names = None if given["labels"] is None else [run.class_name(label) for label in given["labels"]]
    if show == "strip":
        images.save(figures.strip(run, key, n, **given), out)
    elif show == "interpolation":
        images.save(figures.interpolation(run, key, n, **given), out)
    elif show == "animation":
        images.save_animation(figures.trajectory(run, key, n, **given).x, out, labels=names)
    elif out.suffix.lower() == ".png":
        images.save_grid(run.sample(key, n, **given), out, labels=names)
    elif out.suffix.lower() == ".npz":
        arrays = {} if names is None else {"label": given["labels"]}
        np.savez(out, image=pixels.to_uint8(run.sample(key, n, **given)), **arrays)
    else:
        images.save_folder(run.sample(key, n, **given), out, names)


def settings() -> dict[str, Any]:
    """The flags that are handed on, as far as they are given."""
    from diffusion_jax.commands import numbers
    from diffusion_jax.config.text import grid_from_text, sampler_from_text

    names = ("steps", "guidance", "clip", "threshold", "batch_size", "frames")
    given = {name: flags.FLAGS[name].value for name in names if flags.FLAGS[name].value is not None}
    if _SAMPLER.value:
        given["sampler"] = sampler_from_text(_SAMPLER.value, _ALLOW_CODE.value)
    if _GRID.value:
        given["grid"] = grid_from_text(_GRID.value)
    if _SCALES.value is not None:
        given["scales"] = numbers("scales", _SCALES.value, float)
    return given


def guidance(run: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The run's guidance with the flags in place of its parts, if any is given."""
    import diffusion_jax as dj
    from diffusion_jax.commands import numbers

    parts: dict[str, Any] = {}
    if _INTERVAL.value is not None:
        parts["interval"] = tuple(numbers("guidance_interval", _INTERVAL.value, float))
    if flags.FLAGS.guidance_rescale is not None:
        parts["rescale"] = flags.FLAGS.guidance_rescale
    if _WEAKER.value is not None:
        parts["weaker"] = dj.load(_WEAKER.value, allow_code=_ALLOW_CODE.value)
    if not parts:
        return {}
    if "guidance" not in given and ("weaker" in parts or run.sampling.guidance.scale == 1):
        raise ValueError(f"{next(iter(parts))}: give the scale of guidance with it, such as --guidance 2")
    scale = given.get("guidance", run.sampling.guidance.scale)
    return {"guidance": dataclasses.replace(run.sampling.guidance, scale=scale, **parts)}


def check_flags(show: str, n: int) -> None:
    """Refuses flags that have no meaning for what is shown."""
    from diffusion_jax import commands

    names = {name for other in _SHOWS.values() for name in other.flags}
    values = {name: flags.FLAGS[name].value for name in names}
    commands.given(values, _SHOWS[show].flags, f"--show {show}")
    if n < 1:
        raise ValueError(f"--num_samples {n}: draw at least one")


def checked_out(show: str) -> Path:
    """Where the figure goes, if that is free."""
    from diffusion_jax import commands

    endings = _SHOWS[show].endings
    return commands.free_path(f"samples{endings[0]}" if _OUT.value is None else _OUT.value, endings)


def class_row(n: int, run: Any) -> np.ndarray | None:
    """One label a picture from --labels, numbers or names; None for pictures without one."""
    from diffusion_jax import commands

    num_classes = run.network.num_classes
    if _LABELS.value is None:
        return np.arange(n) % num_classes if num_classes else None
    return commands.classes(_LABELS.value, run.class_names, n)


if __name__ == "__main__":
    app.run(main)
