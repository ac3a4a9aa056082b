"""Dynamic thresholding, which keeps contrasts where the static one, `denoiser.clipped`, cuts them off."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from diffusion_jax.process.forward import expand
from diffusion_jax.process.predictions import Denoised
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling.denoiser import Denoise, with_x0
from diffusion_jax.validation import as_number


def dynamic_threshold(denoise: Denoise, schedule: Schedule, quantile: ArrayLike = 0.995) -> Denoise:
    """`denoise` with x0 clipped to [-s, s] and divided by s (Saharia et al. 2022, Sec. 2.3).

    s is, of each picture, the `quantile` of |x0|, or 1 where that is larger: what lies in [-1, 1] stays,
    what guidance has blown up is brought back with its contrasts instead of being cut. eps is moved so that
    alpha x0 + sigma eps = x_t still. `quantile` is traced. Put it around guidance.

    Raises ValueError for a quantile that is not in (0, 1].
    """
    quantile = as_number("quantile", quantile, "(0, 1]")

    def denoise_and_threshold(x_t: jax.Array, t: ArrayLike, **given: jax.Array) -> Denoised:
        here = denoise(x_t, t, **given)
        sizes = jnp.abs(here.x0).reshape(len(x_t), -1)
        s = expand(jnp.maximum(jnp.quantile(sizes, quantile, axis=1), 1.0), x_t)
        return with_x0(here, jnp.clip(here.x0, -s, s) / s, schedule, t)

    return denoise_and_threshold
