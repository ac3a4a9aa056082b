"""A network and its parameters as the function that samplers use: denoise(x_t, t) -> Denoised(x0, eps).

A wrapper hands what it is given beside x_t and t on to what it wraps: `x0_hat`, the x0 of the step before,
for a network that is conditioned on its own guesses (`samplers.SelfConditioned` gives it).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from diffusion_jax.process.forward import expand
from diffusion_jax.process.predictions import Denoised, Prediction, split_variance
from diffusion_jax.process.schedules import Schedule

Denoise = Callable[..., Denoised]


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
    shown the times k/T. With `clip`, x0 is clipped to [-1, 1] and eps re-derived. An output of twice the
    channels is (prediction, f) of learned-range variance, f in [-1, 1] from the posterior's to the forward
    step's (Nichol and Dhariwal 2021, Eq. 15).

    Returns denoise(x_t, t), with t a scalar or [B]; denoise(x_t, t, x0_hat=...) hands x0_hat, shaped
    like x_t, to `apply` too. Raises ValueError where prediction and schedule do not go together
    (eps-prediction with zero terminal SNR), or the output has another shape.
    """
    prediction.check(schedule)
    labels = None if labels is None else jnp.asarray(labels, jnp.int32)

    def denoise(x_t: jax.Array, t: ArrayLike, **given: jax.Array) -> Denoised:
        # A scalar t stays one here: computed once, alpha and sigma round alike for every batch size.
        t = jnp.asarray(t, jnp.float32)
        alpha, sigma = expand(schedule.alpha(t), x_t), expand(schedule.sigma(t), x_t)
        time = prediction.network_time(schedule, schedule.round(t))
        time = jnp.broadcast_to(time, x_t.shape[:1])
        output = apply(params, prediction.network_input(x_t, alpha, sigma), time, labels, **given)
        output, fraction = split_variance(output.astype(jnp.float32), x_t.shape)
        denoised = prediction.denoised(output, x_t, alpha, sigma)
        return dataclasses.replace(denoised, variance_fraction=fraction)

    return clipped(denoise, schedule) if clip else denoise


def with_x0(here: Denoised, x0: jax.Array, schedule: Schedule, t: ArrayLike) -> Denoised:
    """`here` with another x0, and eps moved so that alpha x0 + sigma eps = x_t still."""
    ratio = expand(schedule.alpha(t) / schedule.sigma(t), x0)
    return dataclasses.replace(here, x0=x0, eps=here.eps + ratio * (here.x0 - x0))


def clipped(denoise: Denoise, schedule: Schedule, low: float = -1.0, high: float = 1.0) -> Denoise:
    """`denoise` with x0 clipped to [low, high] (Saharia et al. 2022, Sec. 2.3, static thresholding).

    Put it around guidance, not inside: guidance leaves the range again.
    """

    def denoise_and_clip(x_t: jax.Array, t: ArrayLike, **given: jax.Array) -> Denoised:
        here = denoise(x_t, t, **given)
        return with_x0(here, jnp.clip(here.x0, low, high), schedule, t)

    return denoise_and_clip
