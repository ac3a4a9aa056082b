"""The forward process: q(x_t | x0), q(x_t | x_s) and the two-time posterior q(x_s | x_t, x0).

Pictures are [B, ...]; times are scalars or [B]. Everything is float32.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from diffusion_jax.process.schedules import Schedule

__all__ = ["diffuse", "expand", "learned_variance", "posterior", "transition"]


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


def learned_variance(schedule: Schedule, fraction: jax.Array, t: ArrayLike, s: ArrayLike) -> jax.Array:
    """exp(f log beta + (1 - f) log beta-tilde), shaped like `fraction` f (Nichol and Dhariwal 2021, Eq. 15).

    beta is the variance of `transition` and beta-tilde that of `posterior`, for any two times s < t; between
    them lies only the factor sigma_t^2/sigma_s^2. At s = 0, where beta-tilde is 0, the lower end of the range
    is the posterior's variance between the first two times of a discrete schedule, from 2/T to 1/T, as the
    paper's is; a schedule without two such times has beta for both ends.
    """
    sigma_t, sigma_s = schedule.sigma(t), schedule.sigma(s)
    low = jnp.where(sigma_s > 0, sigma_s, _lowest_sigma(schedule, sigma_t))
    log_low, log_high = (expand(2 * jnp.log(sigma), fraction) for sigma in (low, sigma_t))
    lost = expand(_lost(schedule, t, s), fraction)
    return lost * jnp.exp(fraction * log_high + (1 - fraction) * log_low)


def _lowest_sigma(schedule: Schedule, sigma_t: jax.Array) -> jax.Array:
    """The deviation at s = 0 at the lower end of the learned range."""
    if schedule.steps is None or schedule.steps == 1:
        return sigma_t
    t, s = 2 / schedule.steps, 1 / schedule.steps
    return schedule.sigma(s) * jnp.sqrt(_lost(schedule, t, s))


def _lost(schedule: Schedule, t: ArrayLike, s: ArrayLike) -> jax.Array:
    """1 - SNR(t)/SNR(s), by expm1: as a plain difference it cancels for neighbouring times."""
    return -jnp.expm1(schedule.log_snr(t) - schedule.log_snr(s))


def __dir__() -> list[str]:
    return __all__
