"""The terms of the variational bound on -log p(x0) (Sohl-Dickstein et al. 2015; Ho et al. 2020, Eq. 5).

For times 1 = t_n > .. > t_1 > t_0 = 0 the bound is `prior` + the sum of `term` over all pairs
(t, s) = (t_i, t_{i-1}), in expectation over x_t ~ q(x_t | x0). Pictures are [B, ...] in [-1, 1]; times are
scalars or [B]. Both are in bits per dimension, [B], of pictures of 256 levels.
"""

import math

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr
from jax.typing import ArrayLike

from diffusion_jax.process import forward
from diffusion_jax.process.predictions import Denoised
from diffusion_jax.process.schedules import Schedule

__all__ = ["discretised_log_likelihood", "normal_kl", "prior", "term"]

_HALF_BIN = 1 / 255  # 256 levels from -1 to 1 lie 2/255 apart
# Half a bin of so many standard deviations: below it two neighbouring values of the normal distribution
# are too close to be subtracted in float32, and above it the density's expansion is not exact.
_NARROW = 0.01
_FRACTIONS = {"small": 0.0, "large": 1.0}


def prior(schedule: Schedule, x0: jax.Array) -> jax.Array:
    """L_T = KL(q(x_1 | x0) || N(0, sigma(1)^2)): what x0 still shows in the last x_t.

    N(0, sigma(1)^2) is what `sample` starts from, on every schedule: unit variance where it is variance
    preserving with no signal left, sigma_max^2 where it is exploding. Both variances being the same,
    this is SNR(1) x0^2 / 2.
    """
    return _bits(jnp.exp(schedule.log_snr(1.0)) / 2 * x0**2)


def term(
    schedule: Schedule,
    x0: jax.Array,
    denoised: Denoised,
    t: ArrayLike,
    s: ArrayLike,
    variance: str = "small",
) -> jax.Array:
    """What the step from t to s < t adds, for p(x_s | x_t) = N(mean of q(x_s | x_t, x0-hat), variance).

    L = KL(q(x_s | x_t, x0) || p(x_s | x_t)) where s > 0; at s = 0, where x_s is a picture of 256 levels,
    the decoder's -log p(x0 | x_t) (Ho et al. 2020, Eq. 5 and 13).

    `denoised` is the denoiser's opinion of x_t. `variance` is "small", that of the posterior, "large", that
    of the forward step, or "learned", which lies where `denoised.variance_fraction` says; at s = 0
    each is as in `forward.learned_variance`. Raises ValueError for another, and for "learned" of a
    network that learns no variance.
    """
    variance_s = forward.learned_variance(schedule, _fraction(denoised, variance), t, s)
    log_variance = jnp.log(variance_s)
    # The mean is linear in (x_t, x0): of the difference of two, x_t has gone before it is rounded.
    gap, posterior = forward.posterior(schedule, jnp.zeros_like(x0), x0 - denoised.x0, t, s)
    posterior = forward.expand(posterior, x0)
    kl = normal_kl(gap, jnp.log(posterior), 0.0, log_variance)
    decoder = -discretised_log_likelihood(x0, denoised.x0, log_variance / 2)
    return _bits(jnp.where(posterior > 0, kl, decoder))


def normal_kl(mean1: ArrayLike, log_variance1: ArrayLike, mean2: ArrayLike, log_variance2: ArrayLike) -> jax.Array:
    """KL(N(mean1, variance1) || N(mean2, variance2)) of each element, in nats."""
    ratio = jnp.asarray(log_variance1) - log_variance2
    distance2 = (jnp.asarray(mean1) - mean2) ** 2 * jnp.exp(-jnp.asarray(log_variance2))
    return (jnp.expm1(ratio) - ratio + distance2) / 2


def discretised_log_likelihood(x0: jax.Array, mean: jax.Array, log_std: jax.Array) -> jax.Array:
    """log of N(mean, std^2)'s mass in the bin of each element of x0, in nats (Ho et al. 2020, Eq. 13).

    x0 holds the 256 levels k/127.5 - 1; the bin of each is 2/255 wide, the outer two are open to the sides,
    so that the masses of all levels sum to 1. Finite, and so are its gradients, for a std from 1e-6 to 1e6.
    """
    # The normal distribution is symmetric: both edges are taken to the left, where log_ndtr is exact.
    centre, half = jnp.abs(x0 - mean) * jnp.exp(-log_std), _HALF_BIN * jnp.exp(-log_std)
    wide = jnp.maximum(half, _NARROW)  # also where it is not chosen: log(0) would spoil the gradient
    near, far = log_ndtr(wide - centre), log_ndtr(-wide - centre)
    mass = near + jnp.log(-jnp.expm1(far - near))
    # The density's integral over a narrow bin, to the second order of its width.
    density = -(centre**2) / 2 - math.log(2 * math.pi) / 2 + half**2 * (centre**2 - 1) / 6
    inner = jnp.where(half < _NARROW, density + jnp.log(2 * half), mass)
    below = log_ndtr((x0 + _HALF_BIN - mean) * jnp.exp(-log_std))
    above = log_ndtr((mean - x0 + _HALF_BIN) * jnp.exp(-log_std))
    return jnp.where(x0 < -1 + _HALF_BIN, below, jnp.where(x0 > 1 - _HALF_BIN, above, inner))


def _fraction(denoised: Denoised, variance: str) -> jax.Array:
    """Where the variance lies in the learned range, shaped like the pictures."""
    if variance in _FRACTIONS:
        return jnp.full_like(denoised.x0, _FRACTIONS[variance])
    if variance != "learned":
        raise ValueError(f'variance = "{variance}": must be "small", "large" or "learned"')
    if denoised.variance_fraction is None:
        raise ValueError('variance = "learned": this network learns no variance; use "small" or "large"')
    return denoised.variance_fraction


def _bits(nats: jax.Array) -> jax.Array:
    """Mean over each picture's elements, [B], in bits."""
    return jnp.mean(nats, axis=tuple(range(1, nats.ndim))) / math.log(2)


def __dir__() -> list[str]:
    return __all__
