"""Parts that both likelihoods share: checks of images and times, and a mean with its standard error."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling.grids import Grid, make_times
from diffusion_jax.validation import checked, concrete, floats, integer

__all__ = ["Estimate", "as_uint8_values", "average", "make_full_times"]

# In units of the distance between two values; float32 images in [-1, 1] are off by about 1e-5.
_TOLERANCE = 1e-3


class Estimate(NamedTuple):
    """A mean over independent draws for each image, with its standard error.

    Attributes:
      value: [B].
      standard_error: [B], 0 for an exact value.

    >>> dj.likelihood.Estimate(jnp.array([3.1]), jnp.array([0.2])).value.shape
    (1,)
    """

    value: jax.Array
    standard_error: jax.Array


def average(draws: jax.Array) -> Estimate:
    """Returns the mean of independent draws [n, B], n >= 2, and its standard error.

    >>> average(jnp.array([[1.0], [3.0]])).standard_error.tolist()
    [1.0]
    """
    return Estimate(draws.mean(0), draws.std(0, ddof=1) / np.sqrt(len(draws)))


@checked(x0=floats("B", "..."))
def as_uint8_values(x0: ArrayLike) -> jax.Array:
    """Returns images [B, ...] as float32. Raises ValueError for values other than k/127.5 - 1, k = 0..255.

    >>> as_uint8_values(np.array([[-1.0, 1.0]])).tolist()
    [[-1.0, 1.0]]
    """
    found = concrete("x0", x0)
    if found is not None:
        k = (np.asarray(found, np.float64) + 1) * 127.5
        wrong = ~(np.abs(k - np.clip(np.round(k), 0, 255)) < _TOLERANCE)
        if wrong.any():
            raise ValueError(f"x0 contains {found[wrong][0]:g}: must be uint8 values k/127.5 - 1; or use log_density")
    return jnp.asarray(x0, jnp.float32)


@checked(steps=integer(2))
def make_full_times(schedule: Schedule, grid: Grid, steps: int) -> np.ndarray:
    """Returns grid(schedule, steps), float64 [steps + 1]. Raises ValueError unless it runs from 1 to 0.

    >>> make_full_times(dj.schedules.Cosine(), dj.grids.Uniform(), 2).tolist()
    [1.0, 0.5, 0.0]
    """
    times = make_times(grid, schedule, steps)
    if times[0] != 1:
        raise ValueError(f"grid {type(grid).__name__} starts at t = {times[0]:g}: must start at t = 1; use Uniform")
    return times
