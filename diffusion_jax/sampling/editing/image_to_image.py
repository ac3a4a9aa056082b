"""A picture made anew from a noisy one."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from diffusion_jax.process.forward import diffuse
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling.denoiser import Denoise
from diffusion_jax.sampling.editing.pictures import checked_pictures
from diffusion_jax.sampling.grids import Grid, Uniform, times_of
from diffusion_jax.sampling.loop import as_batch, sample
from diffusion_jax.sampling.randomness import first_noise, image_indices
from diffusion_jax.sampling.samplers import DDIM, Sampler
from diffusion_jax.validation import as_number


def image_to_image(
    key: jax.Array,
    denoise: Denoise,
    schedule: Schedule,
    images: ArrayLike,
    strength: float,
    *,
    sampler: Sampler = DDIM(),
    steps: int = 50,
    grid: Grid = Uniform(),
    indices: ArrayLike | None = None,
    noise: ArrayLike | None = None,
) -> jax.Array:
    """Adds noise to `images` up to time t and samples from there (Meng et al. 2022, SDEdit, Alg. 1).

    t is the first of the times grid(schedule, steps) that is not above `strength`; x_t = alpha(t) x0 +
    sigma(t) noise, and the sampler starts from that same t: about strength x steps steps are taken. At
    strength 1 this is `sample`, but for what alpha(1) lets through.

    Args:
      images: float32 [B, H, W, C] in [-1, 1].
      strength: in (0, 1]; static under jit, as it says how many steps are taken.
      indices, noise: as in `sample`.

    Returns float32 [B, H, W, C]. Raises ValueError for a strength outside of (0, 1] or below the last time
    before 0, and for what `sample` refuses.
    """
    times = from_strength(times_of(grid, schedule, steps), strength)
    images = checked_pictures(images)
    indices = image_indices(indices, len(images))
    if noise is None:
        noise = first_noise(key, indices, images.shape[1:])
    x = diffuse(schedule, images, jnp.float32(times[0]), as_batch("noise", noise, images.shape))
    return sample(key, denoise, schedule, images.shape, sampler=sampler, times=times, indices=indices, start=x)


def from_strength(times: np.ndarray, strength: float) -> np.ndarray:
    """Those of the falling `times` that are not above `strength`, at least two of them.

    A time that a float32 of the strength would reach counts as reached. Raises ValueError.
    """
    strength = as_number("strength", strength, "(0, 1]")
    kept = times[times <= strength * (1 + 1e-6)]
    if len(kept) < 2:
        raise ValueError(
            f"strength = {strength}: the smallest time of the grid is {times[-2]:.3g}; use at least that, or more steps"
        )
    return kept
