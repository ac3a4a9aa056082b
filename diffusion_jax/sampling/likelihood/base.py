"""What both ways share: pictures, times and keys checked, and a mean with its standard error."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling.grids import Grid, times_of
from diffusion_jax.sampling.randomness import image_indices, image_keys
from diffusion_jax.validation import check_integer

# float32 pictures in [-1, 1] miss their level by some 1e-5 of it.
_ON_A_LEVEL = 1e-3


class Estimate(NamedTuple):
    """A figure for each picture, [B], and the standard error of the draws that it is the mean of, [B]."""

    value: jax.Array
    standard_error: jax.Array


def mean_of(draws: jax.Array) -> Estimate:
    """The mean of independent draws [n, B], n >= 2, and its standard error."""
    return Estimate(draws.mean(0), draws.std(0, ddof=1) / np.sqrt(len(draws)))


def checked_pictures(x0: ArrayLike) -> jax.Array:
    """x0 as float32. Raises ValueError where it is not made of the 256 levels, unless it is traced."""
    x0 = jnp.asarray(x0)
    check_batch("x0", x0)
    if not jnp.issubdtype(x0.dtype, jnp.floating):
        raise ValueError(f"x0 is {x0.dtype}: give pictures in [-1, 1], as losses.to_float makes them")
    if not isinstance(x0, jax.core.Tracer):
        level = (np.asarray(x0, np.float64) + 1) * 127.5
        wrong = ~(np.abs(level - np.clip(np.round(level), 0, 255)) < _ON_A_LEVEL)
        if wrong.any():
            raise ValueError(
                f"x0 contains {np.asarray(x0)[wrong][0]:g}: bits per dimension are of the 256 levels "
                "k/127.5 - 1 of uint8 pictures; use log_density for other data"
            )
    return x0.astype(jnp.float32)


def checked_times(schedule: Schedule, grid: Grid, steps: int) -> np.ndarray:
    """grid(schedule, steps), float64 [steps + 1], from 1 to 0. Raises ValueError where it is not that."""
    check_integer("steps", steps, 2)
    times = times_of(grid, schedule, steps)
    if times[0] != 1:
        raise ValueError(
            f"grid {type(grid).__name__} starts at t = {times[0]:g}: a likelihood needs times from 1 to 0; "
            "use Uniform or UniformLogSNR"
        )
    return times


def check_batch(name: str, x: jax.Array) -> None:
    """Raises ValueError unless x is [B, ...], one row a picture."""
    if x.ndim < 2:
        raise ValueError(f"{name} has shape {x.shape}: need a batch, [B, ...]")


def keys_of(key: jax.Array, n: int, indices: ArrayLike | None) -> jax.Array:
    """A stream of its own for each of n pictures, [n]. Raises ValueError for bad indices or a bad key."""
    return image_keys(key, image_indices(indices, n))
