"""Flags that several commands share, and their values as the library takes them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl.flags import FlagValues

from diffusion_jax.cli.command import Flag

if TYPE_CHECKING:
    from diffusion_jax.run import Run

WORKDIR = Flag("workdir", str, "Directory of the run, or gs://bucket/run.", required=True)
SEED = Flag(
    "seed", int, "Image i depends on the seed and i only.", 0, limits={"lower_bound": 0, "upper_bound": 2**32 - 1}
)
ALLOW_CODE = Flag("allow_code", bool, "Import the run's own components, my_pkg.my_module:Name.", False)
LABELS = Flag("labels", list, "Classes, numbers or names, used in turn; none for no class.")
STEPS = Flag("steps", int, "Steps from noise to data; default: as in the run's config.", limits={"lower_bound": 1})
SAMPLER = Flag("sampler", str, "DDPM, DDIM, Heun, DPMSolverPP, ..., with arguments as in DDIM(eta=0.5).")
GRID = Flag(
    "grid",
    str,
    "Times of the steps: Uniform, UniformLogSNR, Karras, Leading, ..., with arguments as in UniformLogSNR(last=0.01).",
)
CLIP = Flag("clip", bool, "Clip x0 to [-1, 1] at every step; default: as in the run's config.")
GUIDANCE = Flag("guidance", float, "Scale of classifier-free guidance; default: as in the run's config.")


def load_run(options: FlagValues) -> "Run":
    """The run of --workdir. Raises CheckpointError if it has no checkpoint and OSError if JAX has no device."""
    import diffusion_jax as dj
    from diffusion_jax.cli.devices import check_devices

    check_devices()
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


def parse_numbers(flag: str, texts: Sequence[str], kind: type) -> list:
    """A list flag as numbers of `kind`, int or float. Raises ValueError if it is empty or holds other text.

    >>> parse_numbers("scales", ["0", "1.5"], float)
    [0.0, 1.5]
    """
    example = "integers, such as 3,5" if kind is int else "numbers, such as 0,1,2"
    try:
        if texts:
            return [kind(text) for text in texts]
    except ValueError:
        pass
    raise ValueError(f"--{flag}={','.join(texts)}: must be {example}")


def parse_labels(texts: Sequence[str], class_names: Sequence[str], n: int) -> np.ndarray | None:
    """--labels as one class per image, int [n]: numbers or class names, repeated in turn; None for "none".

    >>> parse_labels(["dog", "2"], ["cat", "dog", "owl"], 4).tolist()
    [1, 2, 1, 2]
    """
    if [text.lower() for text in texts] == ["none"]:
        return None
    if len(texts) > n:
        raise ValueError(f"--labels={','.join(texts)}: {len(texts)} classes for {n} images; leave some out")
    number = {name: str(i) for i, name in enumerate(class_names)}
    return np.resize(parse_numbers("labels", [number.get(text, text) for text in texts], int), n)


def parse_out(out: str, endings: Sequence[str]) -> Path:
    """--out as a path whose ending is one of `endings`, with "" for a directory.

    Raises ValueError for another ending, a directory in place of a file, and a directory that holds files.

    >>> parse_out("runs/mine.png", (".png", "")).suffix
    '.png'
    """
    if Path(out).suffix.lower() not in endings:
        files = " or ".join(ending for ending in endings if ending)
        directory = ", or nothing for a directory" * ("" in endings)
        raise ValueError(f"--out={out}: the ending must be {files}{directory}")
    from diffusion_jax.validation import local_path  # imports JAX, for which a wrong ending need not wait

    path = local_path("--out", out)
    if path == Path() or (path.suffix and path.is_dir()):
        raise ValueError(f"--out={path}: is a directory; name a file or a new directory")
    if not path.suffix and path.is_dir() and any(path.iterdir()):
        raise ValueError(f"--out={path}: the directory must be empty; name a new one")
    return path


def make_parent(out: Path) -> None:
    """Creates the directory that --out is written to. Raises OSError if it cannot be written."""
    from diffusion_jax.runtime.files import make_writable

    make_writable(out.parent if out.suffix else out)
