"""Image to image: samples that start from a noisy version of an image."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from diffusion_jax.process.forward import diffuse
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling.denoiser import Denoise
from diffusion_jax.sampling.editing.images import as_images
from diffusion_jax.sampling.grids import Grid, Uniform, make_times
from diffusion_jax.sampling.loop import as_batch, sample
from diffusion_jax.sampling.randomness import as_image_indices, first_noise
from diffusion_jax.sampling.samplers import DDIM, Sampler
from diffusion_jax.validation import checked, number

__all__ = ["cut_times", "image_to_image"]


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

    t is the first of the times grid(schedule, steps) that does not exceed `strength`; x_t = alpha(t) x0 +
    sigma(t) noise, and the sampler starts from the same t: about strength x steps steps are taken. At strength 1 the
    result equals `sample`, up to the signal that alpha(1) leaves.

    Args:
      key, denoise, schedule, sampler, steps, grid, indices, noise: as in `sample`.
      images: float32 [B, H, W, C] in [-1, 1].
      strength: in (0, 1]; static under jit, because it determines the number of steps.

    Returns float32 [B, H, W, C]. Raises ValueError for a strength outside (0, 1] or below the last time
    before 0, and for everything that `sample` refuses.

    >>> schedule = dj.schedules.RectifiedFlow()
    >>> def denoise(x_t, t):  # the exact denoiser of data whose pixels are all 0.5
    ...     return dj.Denoised(jnp.full_like(x_t, 0.5), (x_t - 0.5 * schedule.alpha(t)) / schedule.sigma(t))
    >>> images = np.zeros((2, 4, 4, 1))
    >>> dj.editing.image_to_image(jax.random.key(0), denoise, schedule, images, 0.5, steps=4)[0, 0, 0].tolist()
    [0.5]
    """
    times = cut_times(make_times(grid, schedule, steps), strength)
    images = as_images(images)
    indices = as_image_indices(indices, len(images))
    if noise is None:
        noise = first_noise(key, indices, images.shape[1:])
    x = diffuse(schedule, images, jnp.float32(times[0]), as_batch("noise", noise, images.shape))
    return sample(key, denoise, schedule, images.shape, sampler=sampler, times=times, indices=indices, start=x)


@checked(strength=number("(0, 1]"))
def cut_times(times: np.ndarray, strength: float) -> np.ndarray:
    """Returns those of the decreasing `times` that do not exceed `strength`, at least two of them.

    A time that equals the strength in float32 is included. Raises ValueError if fewer than two times remain.

    >>> cut_times(np.array([1.0, 0.75, 0.5, 0.25, 0.0]), 0.5).tolist()
    [0.5, 0.25, 0.0]
    """
    kept = times[times <= strength * (1 + 1e-6)]
    if len(kept) < 2:
        raise ValueError(f"strength = {strength}: must be at least {times[-2]:.3g}, the smallest time; use more steps")
    return kept
