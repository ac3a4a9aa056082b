"""Figures of a run: what the network, the schedule and guidance do, to look at.

Each function takes a `Run`. `**settings` are the keyword arguments of `Run.sample`: labels, steps, sampler, guidance,
batch_size, ... `scale` enlarges the pixels, see `dj.images`.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from PIL.Image import Image

from diffusion_jax.config.experiment import build_dataset
from diffusion_jax.data.sources import DataError
from diffusion_jax.process.forward import diffuse
from diffusion_jax.process.pixels import to_float
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.run import Guidance, Run
from diffusion_jax.runtime import images
from diffusion_jax.runtime.progress import progress_bar
from diffusion_jax.sampling.editing import slerp
from diffusion_jax.sampling.loop import Frames
from diffusion_jax.validation import checked, integer, optional

__all__ = ["forward", "guidance", "held_out_images", "interpolation", "normalize_states", "strip", "trajectory"]


@checked(frames=optional(integer(2)))
def trajectory(run: Run, key: jax.Array, n: int, *, frames: int | None = None, **settings: Any) -> Frames:
    """States of n images between noise and data, [frames, n, H, W, C], normalized by `normalize_states`.

    By default 40 states, or all steps + 1 if these are fewer. With `keep_x0`, x0-hat of each state too. Raises
    ValueError if `frames` is below 2 or above steps + 1.

    >>> key = jax.random.key(0)
    >>> states = trajectory(dj.load("runs/digits"), key, 16, frames=9)  # doctest: +SKIP
    >>> dj.images.save_animation(states.x, "trajectory.gif")  # doctest: +SKIP
    """
    _, kept = run.sample(key, n, keep=_number_of_states(run, frames, 40, settings), **settings)
    return kept._replace(x=normalize_states(run.schedule, kept.x, kept.times))


@checked(frames=optional(integer(2)))
def strip(
    run: Run, key: jax.Array, n: int, *, frames: int | None = None, scale: int | None = None, **settings: Any
) -> Image:
    """Shows how n images emerge from noise: one column per time, x_t above x0-hat.

    By default 9 columns, or all steps + 1 if these are fewer. Raises ValueError as `trajectory` does.

    >>> key = jax.random.key(0)
    >>> strip(dj.load("runs/digits"), key, 3, labels=[2, 5, 8]).save("strip.png")  # doctest: +SKIP
    """
    states = trajectory(run, key, n, frames=_number_of_states(run, frames, 9, settings), keep_x0=True, **settings)
    return images.strip(states.x, states.x0, states.times, run.captions(settings.get("labels")), scale=scale)


@checked(frames=integer(2))
def forward(
    run: Run,
    key: jax.Array,
    x0: np.ndarray,
    *,
    frames: int = 9,
    labels: ArrayLike | None = None,
    scale: int | None = None,
) -> Image:
    """Shows images x0, [N, H, W, C] in [-1, 1], noised to `frames` evenly spaced times, one column per time.

    The noise is the same along a row. `held_out_images` gives real images. Raises ValueError if `frames` is below 2.

    >>> key = jax.random.key(0)
    >>> run = dj.load("runs/digits")  # doctest: +SKIP
    >>> x0, labels = held_out_images(run, 4)  # doctest: +SKIP
    >>> forward(run, key, x0, labels=labels).save("forward.png")  # doctest: +SKIP
    """
    times, eps = np.linspace(0, 1, frames), jnp.asarray(run.noise(key, len(x0)))
    x = np.stack([diffuse(run.schedule, jnp.asarray(x0), t, eps) for t in times])
    x = normalize_states(run.schedule, x, times)
    return images.strip(x, times=times, labels=run.captions(labels), scale=scale)


def held_out_images(run: Run, n: int, allow_code: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
    """n evenly spaced held-out images of the run's data, [n, H, W, C] in [-1, 1], and their labels, [n] or None.

    Raises DataError if the data are missing, have another shape or are fewer than n.

    >>> n = 4
    >>> x0, labels = held_out_images(dj.load("runs/digits"), n)  # doctest: +SKIP
    """
    if "data" not in run.config:
        raise DataError("run.config has no data section; use images of your own")
    _, source = build_dataset(run.config, allow_code).open()
    found, wanted = source.image_shape, run.network.image_shape
    if found != wanted:
        raise DataError(f"the data have images of {found}, the network was trained on {wanted}; restore the data")
    if not 1 <= n <= len(source):
        raise DataError(f"n = {n}: must be from 1 to {len(source)}, the number of held-out images")
    rows = [source.rows[int(i)] for i in np.linspace(0, len(source) - 1, n)]
    x = np.asarray(to_float(jnp.stack([row["image"] for row in rows])))
    return x, np.array([row["label"] for row in rows]) if source.num_classes else None


@checked(frames=integer(2))
def interpolation(
    run: Run,
    key: jax.Array,
    n: int,
    *,
    frames: int = 9,
    progress: bool = False,
    scale: int | None = None,
    **settings: Any,
) -> Image:
    """Shows images generated from noises on the arc between two (`editing.slerp`): n rows of `frames` columns.

    Row i goes from the noise of image 2i of `key` to the noise of image 2i + 1. Noise that the sampler adds is the
    same along a row. Raises ValueError if `frames` is below 2.

    >>> key = jax.random.key(0)
    >>> interpolation(dj.load("runs/digits"), key, 3, labels=[0, 3, 7]).save("interpolation.png")  # doctest: +SKIP
    """
    weights, noise = np.linspace(0, 1, frames), run.noise(key, 2 * n)
    # Column by column: the index of an image, and so its noise on the way, is the index of its row.
    x = [
        run.sample(key, n, noise=slerp(noise[0::2], noise[1::2], weight), **settings)
        for weight in _progress_bar(weights, progress)
    ]
    columns = [f"{weight:.3g}" for weight in weights.tolist()]
    return images.table(np.stack(x, 1), run.captions(settings.get("labels")), columns, scale=scale)


def guidance(
    run: Run,
    key: jax.Array,
    scales: Sequence[float] = (0, 1, 2, 4),
    *,
    labels: ArrayLike | None = None,
    guidance: Guidance | None = None,
    progress: bool = False,
    scale: int | None = None,
    **settings: Any,
) -> Image:
    """Shows the effect of the guidance scale: one row per class, one column per scale.

    The noise is the same along a row. `labels` are the classes of the rows, by default the first ten; `guidance`
    gives the interval, the rescale factor and the weaker run, by default the run's own.

    Raises ValueError if the network has no classes or a scale is not finite.

    >>> key = jax.random.key(0)
    >>> guidance(dj.load("runs/digits"), key, (0, 1, 4), labels=[2, 3]).save("guidance.png")  # doctest: +SKIP
    """
    classes = run.network.num_classes
    if not classes:
        raise ValueError("guidance: this network was trained without classes; use a class-conditional run")
    if not len(scales) or not np.isfinite(scales).all():
        raise ValueError(f"scales = {list(scales)}: must be one or more finite numbers, such as 0, 1, 2, 4")
    rows = np.arange(min(classes, 10)) if labels is None else np.asarray(labels)
    names = run.captions(rows)
    base = guidance or (settings.get("sampling") or run.sampling).guidance
    x = [
        run.sample(key, len(rows), labels=rows, guidance=dataclasses.replace(base, scale=float(w)), **settings)
        for w in _progress_bar(scales, progress)
    ]
    return images.table(np.stack(x, 1), names, [f"w = {w:g}" for w in scales], scale=scale)


def normalize_states(schedule: Schedule, x: ArrayLike, times: ArrayLike) -> np.ndarray:
    """Divides states x, [K, N, H, W, C] at `times`, [K], by sqrt(alpha^2 + sigma^2) if that is above 1.

    Otherwise noise of standard deviation 80, as in Karras' schedule, would be displayed in black and white.

    >>> float(normalize_states(dj.schedules.RectifiedFlow(), np.ones((1, 1, 2, 2, 1)), [0.5]).max())
    1.0
    """
    std = np.hypot(schedule.alpha(times), schedule.sigma(times))
    return np.asarray(x) / np.maximum(std, 1).reshape(-1, 1, 1, 1, 1)


def _number_of_states(run: Run, frames: int | None, default: int, settings: dict[str, Any]) -> int:
    """`frames` if it is possible with the steps; otherwise raises ValueError. None: `default` or all states."""
    times = (settings.get("steps") or (settings.get("sampling") or run.sampling).steps) + 1
    if frames is None:
        return min(default, times)
    if frames > times:
        raise ValueError(f"frames = {frames}: {times - 1} steps have {times} times; use at most {times}")
    return frames


def _progress_bar(columns: Iterable, progress: bool) -> Iterable:
    return progress_bar(columns, unit="column", disable=not progress)


def __dir__() -> list[str]:
    return __all__
