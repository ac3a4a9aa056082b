"""A network and its parameters as the function that samplers use: denoise(x_t, t) -> Denoised(x0, eps)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from diffusion_jax.process.forward import expand
from diffusion_jax.process.predictions import Denoised, Prediction
from diffusion_jax.process.schedules import Schedule

Denoise = Callable[[jax.Array, ArrayLike], Denoised]


def denoiser(
    apply: Callable[..., jax.Array],
    params: Any,
    schedule: Schedule,
    prediction: Prediction,
    labels: ArrayLike | None = None,
    clip: bool = False,
) -> Denoise:
    """The denoiser of a network that predicts `prediction` of `schedule`.

    `apply(params, x, time, labels)` is the network: x float32 [B, H, W, C], time float32 [B], labels
    int32 [B] or None (a negative label means none). A discrete schedule's network is only ever
    shown the times k/T. With `clip`, x0 is clipped to [-1, 1] and eps re-derived.

    Returns denoise(x_t, t), with t a scalar or [B]. Raises ValueError where prediction and schedule
    do not go together (eps-prediction with zero terminal SNR).
    """
    prediction.check(schedule)
    labels = None if labels is None else jnp.asarray(labels, jnp.int32)

    def denoise(x_t: jax.Array, t: ArrayLike) -> Denoised:
        # A scalar t stays one here: computed once, alpha and sigma round alike for every batch size.
        t = jnp.asarray(t, jnp.float32)
        alpha, sigma = expand(schedule.alpha(t), x_t), expand(schedule.sigma(t), x_t)
        time = prediction.network_time(schedule, schedule.round(t))
        time = jnp.broadcast_to(time, x_t.shape[:1])
        output = apply(params, prediction.network_input(x_t, alpha, sigma), time, labels)
        return prediction.denoised(output.astype(jnp.float32), x_t, alpha, sigma)

    return clipped(denoise, schedule) if clip else denoise


def clipped(denoise: Denoise, schedule: Schedule, low: float = -1.0, high: float = 1.0) -> Denoise:
    """`denoise` with x0 clipped to [low, high] and eps moved so that alpha x0 + sigma eps = x_t still.

    Put it around guidance, not inside: guidance leaves the range again.
    """

    def denoise_and_clip(x_t: jax.Array, t: ArrayLike) -> Denoised:
        x0, eps = denoise(x_t, t)
        inside = jnp.clip(x0, low, high)
        ratio = expand(schedule.alpha(t) / schedule.sigma(t), x_t)
        return Denoised(inside, eps + ratio * (x0 - inside))

    return denoise_and_clip
