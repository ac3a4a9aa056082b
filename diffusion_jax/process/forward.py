"""The forward process: q(x_t | x0), q(x_t | x_s) and the two-time posterior q(x_s | x_t, x0).

Images are [B, ...]; times are scalars or [B]. Everything is float32.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from diffusion_jax.process.schedules import Schedule

__all__ = ["diffuse", "expand", "learned_variance", "posterior", "transition"]


def expand(value: jax.Array, like: jax.Array) -> jax.Array:
    """Returns a scalar or [B] value shaped to multiply `like`, [B, ...].

    >>> dj.forward.expand(jnp.array([0.5, 2.0]), jnp.ones((2, 8, 8, 3))).shape
    (2, 1, 1, 1)
    """
    return value if value.ndim == 0 else value.reshape(value.shape + (1,) * (like.ndim - 1))


def diffuse(schedule: Schedule, x0: jax.Array, t: ArrayLike, eps: jax.Array) -> jax.Array:
    """Returns x_t = alpha(t) x0 + sigma(t) eps (Kingma et al. 2021, Eq. 1).

    `x0` and `eps` are [B, ...] of the same shape, `t` a scalar or [B]; x_t has the shape of `x0`.

    >>> x0, eps = jnp.ones((2, 8, 8, 3)), jnp.zeros((2, 8, 8, 3))
    >>> dj.forward.diffuse(dj.schedules.RectifiedFlow(), x0, 0.25, eps)[0, 0, 0].tolist()
    [0.75, 0.75, 0.75]
    """
    return expand(schedule.alpha(t), x0) * x0 + expand(schedule.sigma(t), x0) * eps


def transition(schedule: Schedule, x_s: jax.Array, t: ArrayLike, s: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Returns the mean and variance of q(x_t | x_s), s < t: one forward step (Kingma et al. 2021, App. A.1).

    mean = (alpha_t/alpha_s) x_s, variance = sigma_t^2 - (alpha_t/alpha_s)^2 sigma_s^2. The mean is shaped like `x_s`,
    the variance like the times.

    >>> mean, variance = dj.forward.transition(dj.schedules.RectifiedFlow(), jnp.ones((1, 8, 8, 1)), 0.5, 0.0)
    >>> mean[0, 0, 0].tolist(), variance.item()
    ([0.5], 0.25)
    """
    mean = expand(schedule.alpha(t) / schedule.alpha(s), x_s) * x_s
    return mean, schedule.sigma(t) ** 2 * _snr_loss(schedule, t, s)


def posterior(
    schedule: Schedule, x_t: jax.Array, x0: jax.Array, t: ArrayLike, s: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """Returns the mean and variance of q(x_s | x_t, x0) for any two times s < t (Kingma et al. 2021, App. A.2).

    With r = SNR(t)/SNR(s): mean = (alpha_t sigma_s^2 / (alpha_s sigma_t^2)) x_t + alpha_s (1 - r) x0
    and variance = sigma_s^2 (1 - r). At s = 0 the mean is x0 and the variance 0. The mean is shaped like `x_t`, the
    variance like the times.

    >>> x_t, x0 = jnp.zeros((1, 8, 8, 1)), jnp.ones((1, 8, 8, 1))
    >>> mean, variance = dj.forward.posterior(dj.schedules.RectifiedFlow(), x_t, x0, 0.5, 0.0)
    >>> mean[0, 0, 0].tolist(), variance.item()
    ([1.0], 0.0)
    """
    alpha_s, sigma_s = schedule.alpha(s), schedule.sigma(s)
    loss = _snr_loss(schedule, t, s)
    keep = schedule.alpha(t) / alpha_s * (sigma_s / schedule.sigma(t)) ** 2
    mean = expand(keep, x_t) * x_t + expand(alpha_s * loss, x_t) * x0
    return mean, sigma_s**2 * loss


def learned_variance(schedule: Schedule, fraction: jax.Array, t: ArrayLike, s: ArrayLike) -> jax.Array:
    """Returns exp(f log beta + (1 - f) log beta-tilde) for the fraction f (Nichol and Dhariwal 2021, Eq. 15).

    beta is the variance of `transition` and beta-tilde the variance of `posterior`, for any two times s < t; they
    differ by the factor sigma_t^2/sigma_s^2. At s = 0, where beta-tilde is 0, the lower end of the range is the
    posterior's variance between the first two times of a discrete schedule, from 2/T to 1/T, as in the paper; a
    schedule without two such times uses beta for both ends.

    The result is shaped like `fraction`, [B, ...].

    >>> fraction = jnp.ones((1, 8, 8, 1))
    >>> dj.forward.learned_variance(dj.schedules.RectifiedFlow(), fraction, 0.5, 0.0)[0, 0, 0].tolist()
    [0.25]
    """
    sigma_t, sigma_s = schedule.sigma(t), schedule.sigma(s)
    low = jnp.where(sigma_s > 0, sigma_s, _lowest_sigma(schedule, sigma_t))
    log_low, log_high = (expand(2 * jnp.log(sigma), fraction) for sigma in (low, sigma_t))
    loss = expand(_snr_loss(schedule, t, s), fraction)
    return loss * jnp.exp(fraction * log_high + (1 - fraction) * log_low)


def _lowest_sigma(schedule: Schedule, sigma_t: jax.Array) -> jax.Array:
    """The standard deviation at the lower end of the learned range at s = 0."""
    if schedule.steps is None or schedule.steps == 1:
        return sigma_t
    t, s = 2 / schedule.steps, 1 / schedule.steps
    return schedule.sigma(s) * jnp.sqrt(_snr_loss(schedule, t, s))


def _snr_loss(schedule: Schedule, t: ArrayLike, s: ArrayLike) -> jax.Array:
    """1 - SNR(t)/SNR(s), by expm1, because the plain difference cancels for neighbouring times."""
    return -jnp.expm1(schedule.log_snr(t) - schedule.log_snr(s))


def __dir__() -> list[str]:
    return __all__
