"""Figures of a run: what a person looks at to see what the network, the schedule and guidance do.

Each takes a `Run`; `**settings` are those of `Run.sample`: labels, steps, sampler, guidance, batch_size, ...
"""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jax.typing import ArrayLike
from PIL.Image import Image

from diffusion_jax.config.experiment import build_dataset
from diffusion_jax.data.sources import DataError
from diffusion_jax.process.forward import diffuse
from diffusion_jax.process.pixels import to_float
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.run import Run
from diffusion_jax.runtime import images
from diffusion_jax.sampling.editing import slerp
from diffusion_jax.sampling.loop import Frames

__all__ = ["forward", "guidance", "held_out", "interpolation", "shown", "strip", "trajectory"]


def trajectory(run: Run, key: jax.Array, n: int, *, frames: int | None = None, **settings: Any) -> Frames:
    """States of n pictures on their way from noise to data, [frames, n, H, W, C].

    40 of them unless given, or all steps + 1 where these are fewer. x is as `shown` gives it. With
    `keep_x0`, x0-hat of each too.
    """
    _, kept = run.sample(key, n, keep=_states(run, frames, 40, settings), **settings)
    return kept._replace(x=shown(run.schedule, kept.x, kept.times))


def strip(run: Run, key: jax.Array, n: int, *, frames: int | None = None, **settings: Any) -> Image:
    """How n pictures come out of noise: a column for each of `frames` times, x_t over x0-hat.

    9 of them unless given, or all steps + 1 where these are fewer.
    """
    kept = trajectory(run, key, n, frames=_states(run, frames, 9, settings), keep_x0=True, **settings)
    return images.strip(kept.x, kept.x0, kept.times, _names(run, settings.get("labels")))


def forward(run: Run, key: jax.Array, x0: np.ndarray, *, frames: int = 9, labels: ArrayLike | None = None) -> Image:
    """How pictures x0, [N, H, W, C] in [-1, 1], drown in noise: a column for each of `frames` times.

    The noise is the same along a row. `held_out` gives real pictures.
    """
    times, eps = np.linspace(0, 1, _checked(frames)), jnp.asarray(run.noise(key, len(x0)))
    x = np.stack([diffuse(run.schedule, jnp.asarray(x0), t, eps) for t in times])
    return images.strip(shown(run.schedule, x, times), times=times, labels=_names(run, labels))


def held_out(run: Run, n: int, allow_code: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
    """n held-out pictures from all over the run's data, [n, H, W, C] in [-1, 1], and their labels, [n].

    Raises DataError where the data cannot be had any more, are of another shape or are fewer.
    """
    if "data" not in run.config:
        raise DataError("the run does not say what its data are; show pictures of your own")
    _, source = build_dataset(run.config, allow_code).open()
    if source.image_shape != run.network.image_shape:
        raise DataError(
            f"the run's data are now {source.image_shape}, the network was trained on "
            f"{run.network.image_shape}; put the data back"
        )
    if not 1 <= n <= len(source):
        raise DataError(f"{n} pictures: the data have {len(source)} held-out ones; use 1 to so many")
    rows = [source.rows[int(i)] for i in np.linspace(0, len(source) - 1, n)]
    x = np.asarray(to_float(jnp.stack([row["image"] for row in rows])))
    return x, np.array([row["label"] for row in rows]) if source.num_classes else None


def interpolation(
    run: Run, key: jax.Array, n: int, *, frames: int = 9, progress: bool = False, **settings: Any
) -> Image:
    """Pictures from noises on the arc between two, by `editing.slerp`: n rows of `frames` columns.

    Row i goes from the noise of picture 2i of `key` to that of 2i + 1; what a sampler adds on the way is
    the same along a row.
    """
    weights, noise = np.linspace(0, 1, _checked(frames)), run.noise(key, 2 * n)
    # Column by column: a picture's index, and so its noise on the way, is that of its row.
    x = [
        run.sample(key, n, noise=slerp(noise[0::2], noise[1::2], weight), **settings)
        for weight in _watched(weights, progress)
    ]
    columns = [f"{weight:.3g}" for weight in weights.tolist()]
    return images.table(np.stack(x, 1), _names(run, settings.get("labels")), columns)


def guidance(
    run: Run,
    key: jax.Array,
    scales: Sequence[float] = (0, 1, 2, 4),
    *,
    labels: ArrayLike | None = None,
    progress: bool = False,
    **settings: Any,
) -> Image:
    """What the scale of guidance does: a row for each class, a column for each scale.

    The noise is the same along a row. `labels` are the classes, the first ten unless given.
    """
    classes = run.network.num_classes
    if not classes:
        raise ValueError("guidance: this network was trained without classes, there is nothing to guide")
    if not len(scales) or not np.isfinite(scales).all():
        raise ValueError(f"scales = {list(scales)}: give at least one, all finite, such as 0, 1, 2, 4")
    rows = np.arange(min(classes, 10)) if labels is None else np.asarray(labels)
    x = [
        run.sample(key, len(rows), labels=rows, guidance=float(scale), **settings)
        for scale in _watched(scales, progress)
    ]
    return images.table(np.stack(x, 1), _names(run, rows), [f"w = {scale:g}" for scale in scales])


def shown(schedule: Schedule, x: ArrayLike, times: ArrayLike) -> np.ndarray:
    """States x [K, N, H, W, C] at `times`, [K], divided by sqrt(alpha^2 + sigma^2) where that is above 1.

    Else Karras' noise of deviation 80 would be black and white.
    """
    deviation = np.hypot(schedule.alpha(times), schedule.sigma(times))
    return np.asarray(x) / np.maximum(deviation, 1).reshape(-1, 1, 1, 1, 1)


def _states(run: Run, frames: int | None, usual: int, settings: dict[str, Any]) -> int:
    """`frames`, checked; unless given the `usual` number, or all states where these are fewer."""
    times = (settings.get("steps") or run.sampling.steps) + 1
    return min(usual, times) if frames is None else _checked(frames, times)


def _checked(frames: int, times: int | None = None) -> int:
    if frames < 2:
        raise ValueError(f"frames = {frames}: show at least two")
    if times is not None and frames > times:
        raise ValueError(f"frames = {frames}: {times - 1} steps have only {times} times; use at most so many")
    return frames


def _names(run: Run, labels: ArrayLike | None) -> list[str] | None:
    return None if labels is None else [run.class_name(label) for label in np.asarray(labels)]


def _watched(columns: Iterable, progress: bool) -> Iterable:
    return tqdm.tqdm(columns, unit="column", disable=not progress)


def __dir__() -> list[str]:
    return __all__
