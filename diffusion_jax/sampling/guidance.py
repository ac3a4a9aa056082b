"""Guidance: wrappers that take denoisers and return a denoiser."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from diffusion_jax.process.forward import expand
from diffusion_jax.process.predictions import Denoised
from diffusion_jax.sampling.denoiser import Denoise


def classifier_free(cond: Denoise, uncond: Denoise, scale: ArrayLike) -> Denoise:
    """uncond + scale (cond - uncond), on x0 and eps alike (Ho and Salimans 2022, Eq. 6).

    `scale` is w = 1 + (their w): 1 is the conditional model and 0 the unconditional one, both bit
    for bit; above 1 the class is exaggerated. A scalar or one a picture, [B]; traced, so that
    another scale never recompiles.
    """
    scale = jnp.asarray(scale, jnp.float32)

    def denoise(x_t: jax.Array, t: ArrayLike, **given: jax.Array) -> Denoised:
        w = expand(scale, x_t)
        c, u = cond(x_t, t, **given), uncond(x_t, t, **given)
        # Not u + w (c - u), which rounds away from c at w = 1.
        return c.moved(w * c.x0 + (1 - w) * u.x0, w * c.eps + (1 - w) * u.eps)

    return denoise
