"""Draws pictures from a run: python sample.py --workdir runs/digits --num_samples 64 --out samples.png

The ending of --out says what is written: .png a grid, .npz the arrays `image` (uint8) and `label`, no ending
a folder of PNGs.
"""

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", 64, "How many pictures.")
_LABELS = flags.DEFINE_list(
    "labels", None, "Classes, repeated in turn; all of them unless given; 'none' for no class."
)
_STEPS = flags.DEFINE_integer("steps", None, "Reverse steps; the config's unless given.")
_SAMPLER = flags.DEFINE_string(
    "sampler", None, "DDPM, DDIM, Heun, DPMSolverPP, ..., with arguments as in DDIM(eta=0.5)."
)
_GUIDANCE = flags.DEFINE_float("guidance", None, "Classifier-free scale; the config's unless given.")
_SEED = flags.DEFINE_integer(
    "seed", 0, "Picture i depends on the seed and i alone.", lower_bound=0, upper_bound=2**32 - 1
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Pictures at once; changes no picture.")
_OUT = flags.DEFINE_string("out", "samples.png", "A .png grid, an .npz, or a folder of PNGs.")
_ALLOW_CODE = flags.DEFINE_bool("allow_code", False, "Import the run's own components.")


def main(_: list[str]) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    from diffusion_jax.runtime.checkpoint import CheckpointError

    try:
        draw()
    except (ValueError, OSError, CheckpointError) as error:
        sys.exit(f"error: {error}")


def draw() -> None:
    import jax

    import diffusion_jax as dj
    from diffusion_jax.experiment import sampler_from_text

    n, out = _NUM_SAMPLES.value, Path(_OUT.value)
    if n < 1:
        raise ValueError(f"--num_samples {n}: draw at least one")
    if out.suffix not in (".png", ".npz", ""):
        raise ValueError(f"--out {out}: the ending must be .png or .npz, or none for a folder")
    make_room(out)
    sampler = sampler_from_text(_SAMPLER.value) if _SAMPLER.value else None
    run = dj.load(_WORKDIR.value, allow_code=_ALLOW_CODE.value)
    labels = class_row(n, run.network.num_classes)
    x = run.sample(
        jax.random.key(_SEED.value),
        n,
        labels=labels,
        steps=_STEPS.value,
        sampler=sampler,
        guidance=_GUIDANCE.value,
        batch_size=_BATCH_SIZE.value,
        progress=True,
    )
    names = None if labels is None else [run.class_name(label) for label in labels]
    if out.suffix == ".png":
        dj.images.save_grid(x, out, labels=names)
    elif out.suffix == ".npz":
        arrays: dict[str, Any] = {} if labels is None else {"label": labels}
        np.savez(out, image=dj.images.to_uint8(x), **arrays)
    else:
        dj.images.save_folder(x, out, names)
    print(f"{n} pictures in {out}")


def make_room(out: Path) -> None:
    """Fails before the pictures are drawn, not after, where they cannot be written."""
    from diffusion_jax.runtime.files import make_writable

    if out == Path() or (out.suffix and out.is_dir()):
        raise ValueError(f"--out {out}: is a folder; name a file, or a new folder")
    if not out.suffix and out.is_dir() and any(out.iterdir()):
        raise ValueError(f"--out {out}: holds files already; name a new folder")
    make_writable(out.parent if out.suffix else out)


def class_row(n: int, num_classes: int) -> np.ndarray | None:
    """One label a picture from --labels; None for pictures without one."""
    wanted = _LABELS.value
    if wanted is None:
        return np.arange(n) % num_classes if num_classes else None
    if not wanted:
        raise ValueError("--labels is empty: give classes, such as 3,5, or none")
    if [w.lower() for w in wanted] == ["none"]:
        return None
    try:
        row = np.array([int(w) for w in wanted])
    except ValueError:
        raise ValueError(f"--labels {','.join(wanted)}: give whole numbers, such as 3,5") from None
    return np.resize(row, n)


if __name__ == "__main__":
    app.run(main)
