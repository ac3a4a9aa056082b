"""The samples that a training run draws from its averaged weights, and their files."""

from typing import Any

import jax
import numpy as np

from diffusion_jax.config.experiment import Experiment
from diffusion_jax.run import Run
from diffusion_jax.runtime import images
from diffusion_jax.runtime.files import replace_file
from diffusion_jax.runtime.place import Place, make_directory
from diffusion_jax.runtime.writers import MetricsWriter

__all__ = ["draw_samples", "sample_labels", "sample_path", "write_samples"]

_PER_CLASS, _UNLABELLED = 10, 64


def sample_path(workdir: Place, experiment: Experiment, step: int) -> Place:
    """The file of the samples of one step: a grid, or arrays if the images cannot be shown."""
    suffix = ".png" if images.are_visible(experiment.network.image_shape) else ".npz"
    return workdir / "samples" / f"step_{step:07d}{suffix}"


def draw_samples(run: Run, seed: int) -> tuple[np.ndarray, np.ndarray | None]:
    """(images, labels) of `sample_labels`, from the same noise every time."""
    n, labels = sample_labels(run)
    return run.sample(jax.random.key(seed), n, labels=labels), labels


def sample_labels(run: Run) -> tuple[int, np.ndarray | None]:
    """(number of images, their labels): ten of each of the first ten classes, or 64 without classes."""
    classes = min(run.network.num_classes, 10)
    labels = np.repeat(np.arange(classes), _PER_CLASS) if classes else None
    return _PER_CLASS * classes if classes else _UNLABELLED, labels


def write_samples(path: Place, x: Any, labels: np.ndarray | None, run: Run, step: int, writer: MetricsWriter) -> None:
    """Writes samples to `path`, and a grid to samples.png of the run and to TensorBoard too."""
    make_directory(path.parent)
    if path.suffix == ".npz":
        arrays: dict[str, Any] = {"image": np.asarray(x)} | ({} if labels is None else {"label": labels})
        with replace_file(path) as new, new.open("wb") as file:
            np.savez(file, **arrays)
        return
    grid = images.grid(x, 8 if labels is None else _PER_CLASS, run.captions(labels))
    for place in (path, path.parent.parent / "samples.png"):
        with replace_file(place) as new:
            grid.save(new)
    writer.write_image(step, "samples", np.asarray(grid))
