"""Generates images from a run, or figures of how it generates them.

    diffusion-jax sample --workdir runs/digits --num_samples 64 --steps 20 --out samples.png
    diffusion-jax sample --workdir runs/digits --labels 3,5 --sampler "DDIM(eta=0.5)" --guidance 2 --out digits.npz
    diffusion-jax sample --pretrained digits --labels 3 --num_samples 1 --out three.png
    diffusion-jax sample --workdir runs/digits --show animation --out trajectory.gif

--show chooses the output:

    grid           images, each under its class. The ending of --out chooses the format: .png is a grid, .npz holds
                   the arrays `image` (uint8, or with --float float32 around [-1, 1]) and `label`, no ending makes a
                   directory of PNG files
    strip          how images emerge from noise: one column per time, x_t above the network's estimate of x0
    animation      the same as a moving grid, .gif or .webp
    forward        how held-out images of the run's data are noised: one column per time
    interpolation  from the noise of image 0 to the noise of image 1, from 2 to 3, ..., by slerp: one row per pair
    guidance       one row per class, one column per guidance scale; the noise is the same along a row
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl.flags import FlagValues

import diffusion_jax as dj
from diffusion_jax.cli import flags, processes
from diffusion_jax.cli.command import Command, Flag
from diffusion_jax.cli.labels import parse_labels, repeat_labels
from diffusion_jax.cli.terminal import one_line

if TYPE_CHECKING:
    import jax

    from diffusion_jax.run import Guidance, Run


@dataclasses.dataclass(frozen=True)
class Show:
    """A value of --show: the flags that apply to it, the endings of --out and the default of --num_samples."""

    flags: tuple[str, ...]
    endings: tuple[str, ...] = (".png",)
    num_samples: int = 4


_GUIDANCE = ("guidance_interval", "guidance_rescale", "weaker")
_SAMPLING = ("labels", "steps", "sampler", "grid", "clip", "threshold", "batch_size", *_GUIDANCE)
SHOWS = {
    "grid": Show((*_SAMPLING, "num_samples", "guidance", "float", "scale"), (".png", ".npz", ""), num_samples=64),
    "strip": Show((*_SAMPLING, "num_samples", "guidance", "frames", "scale")),
    "animation": Show((*_SAMPLING, "num_samples", "guidance", "frames", "scale"), (".gif", ".webp"), num_samples=16),
    "forward": Show(("num_samples", "frames", "scale")),
    "interpolation": Show((*_SAMPLING, "num_samples", "guidance", "frames", "scale")),
    "guidance": Show((*_SAMPLING, "scales", "scale")),
}


def run(options: FlagValues) -> None:
    show = SHOWS[options.show]
    n = show.num_samples if options.num_samples is None else options.num_samples
    check_flags(options)
    out = flags.parse_out(options.out or f"samples{show.endings[0]}", show.endings)
    if options.float and out.suffix.lower() != ".npz":
        raise ValueError(f"--float: {out} is an image; use it with a name that ends in .npz")
    if options.scale and out.suffix.lower() == ".npz":
        raise ValueError(f"--scale: does not apply to {out}, which holds arrays; leave it out")
    settings = flags.set_flags(options, ("steps", "clip", "threshold", "batch_size", "frames", "sampler", "grid"))
    if options.scales is not None:
        settings["scales"] = flags.parse_numbers("scales", options.scales)
    guidance = parse_guidance(options)
    processes.initialize_from_flags(options)
    loaded = flags.load_run(options)
    check_channels(loaded.network.image_shape, out.suffix.lower())
    settings |= choose_guidance(options, loaded, guidance)
    if dj.processes.is_owner():
        flags.make_parent(out)
    write = generate_output(options, loaded, n, out.suffix.lower(), settings)
    if dj.processes.is_owner():
        write(out)
        print(one_line(f"{n} image{'s' * (n > 1)} in {out}" if options.show == "grid" else f"{options.show} in {out}"))


def check_channels(image_shape: tuple[int, ...], suffix: str) -> None:
    """Raises ValueError for an image file of images that do not have 1 or 3 channels."""
    if suffix != ".npz" and not dj.images.are_visible(image_shape):
        raise ValueError(f"images of {image_shape[-1]} channels cannot be shown; use --show grid --out samples.npz")


def generate_output(
    options: FlagValues, loaded: "Run", n: int, suffix: str, settings: dict[str, Any]
) -> Callable[[Path], None]:
    """Generates what --show asks for; returns the function that writes it to a file."""
    import jax

    key, enlarge = jax.random.key(options.seed), flags.set_flags(options, ("scale",))
    if options.show == "forward":
        x0, labels = dj.figures.held_out_images(loaded, n, options.allow_code)
        return functools.partial(
            dj.images.save, dj.figures.forward(loaded, key, x0, labels=labels, **settings, **enlarge)
        )
    if options.show == "guidance":
        classes = None if options.labels is None else _read_labels(options, loaded)
        if classes is None and options.labels is not None:
            raise ValueError("--labels=none: guidance leads to a class; name some classes, or leave the flag out")
        rows = None if classes is None else np.array(classes)
        figure = dj.figures.guidance(loaded, key, labels=rows, progress=True, **settings, **enlarge)
        return functools.partial(dj.images.save, figure)
    settings |= {"labels": choose_labels(options, loaded, n), "progress": dj.processes.is_owner()}
    if suffix == ".npz":
        return generate_arrays(loaded, key, n, settings, as_float=bool(options.float))
    return generate_samples(options.show, loaded, key, n, suffix, settings, enlarge)


def generate_arrays(
    loaded: "Run", key: "jax.Array", n: int, settings: dict[str, Any], as_float: bool
) -> Callable[[Path], None]:
    """Generates n samples; returns the function that writes them as arrays, float32 if they cannot be shown."""
    x, labels = loaded.sample(key, n, **settings), settings["labels"]
    pixels = x if as_float or not dj.images.are_visible(x.shape) else dj.pixels.to_uint8(x)
    return functools.partial(np.savez, image=pixels, **({} if labels is None else {"label": labels}))


def generate_samples(
    show: str,
    loaded: "Run",
    key: "jax.Array",
    n: int,
    suffix: str,
    settings: dict[str, Any],
    enlarge: dict[str, Any],
) -> Callable[[Path], None]:
    """Generates n samples; returns the function that writes them as images in the format of `show` and `suffix`."""
    labels = settings["labels"]
    names = loaded.captions(labels)
    if show == "strip":
        return functools.partial(dj.images.save, dj.figures.strip(loaded, key, n, **settings, **enlarge))
    if show == "interpolation":
        return functools.partial(dj.images.save, dj.figures.interpolation(loaded, key, n, **settings, **enlarge))
    if show == "animation":
        frames = dj.figures.trajectory(loaded, key, n, **settings).x
        return functools.partial(dj.images.save_animation, frames, labels=names, **enlarge)
    x = loaded.sample(key, n, **settings)
    return functools.partial(dj.images.save_grid if suffix else dj.images.save_folder, x, labels=names, **enlarge)


def check_flags(options: FlagValues) -> None:
    """Raises ValueError if a flag does not apply to --show."""
    others = {name for show in SHOWS.values() for name in show.flags} - set(SHOWS[options.show].flags)
    for name in sorted(others):
        if options[name].value is not None:
            raise ValueError(f"--{name}: does not apply to --show {options.show}; leave it out")


def parse_guidance(options: FlagValues) -> dict[str, Any]:
    """The fields of `Guidance` that the flags set, except the weaker run."""
    parts = {"scale": options.guidance, "rescale": options.guidance_rescale}
    if options.guidance_interval is not None:
        parts["interval"] = tuple(flags.parse_numbers("guidance_interval", options.guidance_interval))
    return {name: value for name, value in parts.items() if value is not None}


def choose_guidance(options: FlagValues, loaded: "Run", parts: dict[str, Any]) -> dict[str, "Guidance"]:
    """The run's guidance with some fields replaced; empty if no flag sets one."""
    if not parts and options.weaker is None:
        return {}
    default = loaded.sampling.guidance
    needs_scale = options.show != "guidance" and (options.weaker is not None or default.scale == 1)
    if needs_scale and "scale" not in parts:
        raise ValueError("--guidance: required with --guidance_interval, --guidance_rescale and --weaker; such as 2")
    if options.weaker is not None:
        parts = parts | {"weaker": dj.load(options.weaker, allow_code=options.allow_code)}
    return {"guidance": dataclasses.replace(default, **parts)}


def choose_labels(options: FlagValues, loaded: "Run", n: int) -> np.ndarray | None:
    """One class per image, int [n], from --labels; all classes in turn by default, None for no class."""
    num_classes = loaded.network.num_classes
    if options.labels is None:
        return np.arange(n) % num_classes if num_classes else None
    labels = _read_labels(options, loaded)
    return None if labels is None else repeat_labels(labels, n)


def _read_labels(options: FlagValues, loaded: "Run") -> list[int] | None:
    return parse_labels(options.labels, loaded.class_names, loaded.network.num_classes)


COMMAND = Command(
    name="diffusion-jax sample",
    text=str(__doc__),
    flags=(
        *flags.RUN,
        Flag("show", tuple(SHOWS), "What to generate; see above.", "grid"),
        Flag(
            "num_samples",
            int,
            "Number of images (rows, pairs); default: 64 for a grid, 16 for an animation, else 4.",
            limits={"lower_bound": 1},
        ),
        Flag("out", str, "Output path; default: samples.png, or samples.gif for an animation."),
        flags.LABELS_OR_ALL,
        flags.STEPS,
        flags.SAMPLER,
        flags.GRID,
        flags.CLIP,
        Flag("threshold", float, "Quantile of |x0| for dynamic thresholding, such as 0.995; 0 turns it off."),
        flags.GUIDANCE,
        Flag("guidance_interval", list, "Two noise levels sigma/alpha between which guidance acts, such as 0.3,3."),
        Flag("guidance_rescale", float, "How far guidance keeps the contrast of the conditional model, 0 to 1."),
        Flag("weaker", str, "Directory of a weaker run that guidance leads away from, instead of no class."),
        Flag("frames", int, "Columns, default 9, or frames of an animation, default 40; at most steps + 1."),
        Flag("scales", list, "Guidance scales, one per column; default: 0,1,2,4."),
        flags.SCALE,
        Flag("float", bool, "Write float32 to an .npz instead of uint8."),
        flags.SEED,
        Flag("batch_size", int, "Images generated at once; does not change the images."),
        flags.ALLOW_CODE,
        *processes.FLAGS,
    ),
    run=run,
)
