"""The forward process: q(x_t | x0), q(x_t | x_s) and the two-time posterior q(x_s | x_t, x0).

Pictures are [B, ...]; times are scalars or [B]. Everything is float32.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from diffusion_jax.process.schedules import Schedule


def expand(value: jax.Array, like: jax.Array) -> jax.Array:
    """A scalar or [B] value shaped to multiply `like`, [B, ...]."""
    return value if value.ndim == 0 else value.reshape(value.shape + (1,) * (like.ndim - 1))


def diffuse(schedule: Schedule, x0: jax.Array, t: ArrayLike, eps: jax.Array) -> jax.Array:
    """x_t = alpha(t) x0 + sigma(t) eps (Kingma et al. 2021, Eq. 1).

    `x0` and `eps` are [B, ...] of the same shape, `t` a scalar or [B]; returns x_t of that shape.
    """
    return expand(schedule.alpha(t), x0) * x0 + expand(schedule.sigma(t), x0) * eps


def transition(schedule: Schedule, x_s: jax.Array, t: ArrayLike, s: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Mean and variance of q(x_t | x_s), s < t: one step of noising (Kingma et al. 2021, App. A.1).

    mean = (alpha_t/alpha_s) x_s, variance = sigma_t^2 - (alpha_t/alpha_s)^2 sigma_s^2.
    Returns the mean, shaped like `x_s`, and the variance, shaped like the times.
    """
    mean = expand(schedule.alpha(t) / schedule.alpha(s), x_s) * x_s
    return mean, schedule.sigma(t) ** 2 * _lost(schedule, t, s)


def posterior(
    schedule: Schedule, x_t: jax.Array, x0: jax.Array, t: ArrayLike, s: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """Mean and variance of q(x_s | x_t, x0) for any two times s < t (Kingma et al. 2021, App. A.2).

    With r = SNR(t)/SNR(s): mean = (alpha_t sigma_s^2 / (alpha_s sigma_t^2)) x_t + alpha_s (1 - r) x0
    and variance = sigma_s^2 (1 - r). At s = 0 that is x0 itself, with no variance.
    Returns the mean, shaped like `x_t`, and the variance, shaped like the times.
    """
    alpha_s, sigma_s = schedule.alpha(s), schedule.sigma(s)
    lost = _lost(schedule, t, s)
    keep = schedule.alpha(t) / alpha_s * (sigma_s / schedule.sigma(t)) ** 2
    mean = expand(keep, x_t) * x_t + expand(alpha_s * lost, x_t) * x0
    return mean, sigma_s**2 * lost


def _lost(schedule: Schedule, t: ArrayLike, s: ArrayLike) -> jax.Array:
    """1 - SNR(t)/SNR(s), by expm1: as a plain difference it cancels for neighbouring times."""
    return -jnp.expm1(schedule.log_snr(t) - schedule.log_snr(s))
