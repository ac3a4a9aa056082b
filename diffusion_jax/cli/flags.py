"""Flags that several commands share, and their values as the library takes them."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl.flags import FlagValues

from diffusion_jax.cli.command import Flag

if TYPE_CHECKING:
    from diffusion_jax.run import Run

# Systems allow 255; a file is written under a longer name first.
_NAME_BYTES = 240

# A run: the first or the second; `load_run` checks that one of them is set.
RUN = (
    Flag("workdir", str, "Directory of the run, gs://bucket/run, or a .safetensors file of diffusion-jax export."),
    Flag("pretrained", str, "A network that comes with the library, instead of --workdir: digits or mnist."),
)
SCALE = Flag(
    "scale",
    int,
    "Side of the square that each pixel becomes; default: as needed for 96 pixels a side.",
    limits={"lower_bound": 1, "upper_bound": 256},
)
SEED = Flag(
    "seed", int, "Image i depends on the seed and i only.", 0, limits={"lower_bound": 0, "upper_bound": 2**32 - 1}
)
ALLOW_CODE = Flag("allow_code", bool, "Import the run's own components, my_pkg.my_module:Name.", False)
_LABELS = (
    "Classes, used in turn, separated by commas: numbers or names. #3 is always the number; in quotes it is always the "
    'name, also with commas: --labels \'"3","a, b",5\'. '
)
LABELS = Flag("labels", str, f"{_LABELS}Default: no class.")
LABELS_OR_ALL = LABELS._replace(help=f"{_LABELS}Default: all; none for no class.")
STEPS = Flag("steps", int, "Steps from noise to data; default: as in the run's config.", limits={"lower_bound": 1})
SAMPLER = Flag("sampler", str, "DDPM, DDIM, Heun, DPMSolverPP, ..., with arguments as in DDIM(eta=0.5).")
GRID = Flag(
    "grid",
    str,
    "Times of the steps: Uniform, UniformLogSNR, Karras, Leading, ..., with arguments as in UniformLogSNR(last=0.01).",
)
CLIP = Flag("clip", bool, "Clip x0 to [-1, 1] at every step; default: as in the run's config.")
GUIDANCE = Flag("guidance", float, "Scale of classifier-free guidance; default: as in the run's config.")


def check_run(options: FlagValues) -> None:
    """Raises ValueError unless either --workdir or --pretrained is set."""
    if options.workdir and options.pretrained:
        raise ValueError(f"--pretrained={options.pretrained}: replaces --workdir; leave one of them out")
    if not options.workdir and not options.pretrained:
        raise ValueError("--workdir: required, or --pretrained, such as --pretrained digits")


def load_run(options: FlagValues) -> "Run":
    """The run of --workdir or --pretrained.

    Raises ValueError unless one of them is set, CheckpointError if there is no checkpoint, and OSError if JAX has no
    device.
    """
    check_run(options)
    import diffusion_jax as dj
    from diffusion_jax.cli.devices import check_devices

    check_devices()
    if options.pretrained:
        return dj.pretrained(options.pretrained)
    return dj.load(options.workdir, allow_code=options.allow_code)


def set_flags(options: FlagValues, names: Iterable[str]) -> dict[str, Any]:
    """The flags of these names that are not None, with --sampler and --grid as objects."""
    values: dict[str, Any] = {name: options[name].value for name in names if options[name].value is not None}
    if "sampler" in values or "grid" in values:
        from diffusion_jax.config.text import grid_from_text, sampler_from_text

        if "sampler" in values:
            values["sampler"] = sampler_from_text(values["sampler"], options.allow_code)
        if "grid" in values:
            values["grid"] = grid_from_text(values["grid"])
    return values


def parse_numbers(flag: str, texts: Sequence[str]) -> list[float]:
    """A list flag as numbers. Raises ValueError if it is empty or holds other text.

    >>> parse_numbers("scales", ["0", "1.5"])
    [0.0, 1.5]
    """
    try:
        if texts:
            return [float(text) for text in texts]
    except ValueError:
        pass
    raise ValueError(f"--{flag}={','.join(texts)}: must be numbers, such as 0,1,2")


def parse_out(out: str, endings: Sequence[str], flag: str = "--out") -> Path:
    """--out, or another flag, as a path whose ending is one of `endings`, with "" for a directory.

    Raises ValueError for another ending, a name too long to be written after all images are generated, a directory in
    place of a file, and a directory that holds files.

    >>> parse_out("runs/mine.png", (".png", "")).suffix
    '.png'
    """
    if Path(out).suffix.lower() not in endings:
        files = " or ".join(ending for ending in endings if ending)
        directory = ", or nothing for a directory" * ("" in endings)
        raise ValueError(f"{flag}={out}: the ending must be {files}{directory}")
    from diffusion_jax.validation import local_path  # imports JAX, for which a wrong ending need not wait

    path = local_path(flag, out)
    if len(os.fsencode(path.name)) > _NAME_BYTES:
        raise ValueError(f"{flag}={path}: the name must have at most {_NAME_BYTES} bytes; choose a shorter one")
    if path == Path() or (path.suffix and path.is_dir()):
        raise ValueError(f"{flag}={path}: is a directory; name a file or a new directory")
    if not path.suffix and path.is_dir() and any(path.iterdir()):
        raise ValueError(f"{flag}={path}: the directory must be empty; name a new one")
    return path


def make_parent(out: Path) -> None:
    """Creates the directory that --out is written to. Raises OSError if it cannot be written."""
    from diffusion_jax.runtime.files import make_writable

    make_writable(out.parent if out.suffix else out)
