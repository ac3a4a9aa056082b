"""Dynamic thresholding: keeps contrast that static thresholding (`denoiser.clipped`) cuts off."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from diffusion_jax.process.forward import expand
from diffusion_jax.process.predictions import Denoised
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling.denoiser import Denoise, of_one_schedule, replace_x0
from diffusion_jax.validation import as_number

__all__ = ["dynamic_threshold"]


@of_one_schedule("denoise")
def dynamic_threshold(denoise: Denoise, schedule: Schedule, quantile: ArrayLike = 0.995) -> Denoise:
    """Returns `denoise` with x0 clipped to [-s, s] and divided by s (Saharia et al. 2022, Sec. 2.3).

    s is the `quantile` of |x0| of each image, or 1 if that is larger: x0 within [-1, 1] is unchanged, and x0 that
    guidance has enlarged is scaled back into range instead of being cut off. eps changes so that
    alpha x0 + sigma eps stays x_t. `quantile` is traced. Apply it after guidance.

    Raises ValueError if `quantile` is not in (0, 1].

    >>> def denoise(x_t, t):
    ...     return dj.Denoised(2 * x_t, x_t)
    >>> dj.dynamic_threshold(denoise, dj.schedules.Cosine())(jnp.ones((1, 8, 8, 1)), 0.5).x0.max().item()
    1.0
    """
    quantile = as_number("quantile", quantile, "(0, 1]")

    def denoise_and_threshold(x_t: jax.Array, t: ArrayLike, **kwargs: jax.Array) -> Denoised:
        here = denoise(x_t, t, **kwargs)
        sizes = jnp.abs(here.x0).reshape(x_t.shape[0], -1)
        s = expand(jnp.maximum(jnp.quantile(sizes, quantile, axis=1), 1.0), x_t)
        return replace_x0(here, jnp.clip(here.x0, -s, s) / s, schedule, t)

    return denoise_and_threshold
