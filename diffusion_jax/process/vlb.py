"""The terms of the variational bound on -log p(x0) (Sohl-Dickstein et al. 2015; Ho et al. 2020, Eq. 5).

For times 1 = t_n > .. > t_1 > t_0 = 0 the bound is `prior` + the sum of `term` over all pairs
(t, s) = (t_i, t_{i-1}), in expectation over x_t ~ q(x_t | x0). Images are [B, ...] in [-1, 1]; times are
scalars or [B]. Both are in bits per dimension, [B], of uint8 images.
"""

import math

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr
from jax.typing import ArrayLike

from diffusion_jax.process import forward
from diffusion_jax.process.predictions import Denoised
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.validation import checked, choice

__all__ = ["discretised_log_likelihood", "normal_kl", "prior", "term"]

_HALF_BIN = 1 / 255  # the 256 values from -1 to 1 are 2/255 apart
# Half the width of a bin in standard deviations. Below it, neighbouring values of the normal distribution function are
# too close to be subtracted in float32; above it, the expansion of the density is not exact.
_NARROW = 0.01
_FRACTIONS = {"small": 0.0, "large": 1.0}


def prior(schedule: Schedule, x0: jax.Array) -> jax.Array:
    """Returns L_T = KL(q(x_1 | x0) || N(0, sigma(1)^2)), the cost of the signal left in the last x_t, [B].

    `sample` starts from N(0, sigma(1)^2) on every schedule: unit variance if it is variance preserving with no signal
    left, sigma_max^2 if it is exploding. Because both variances are equal, this is SNR(1) x0^2 / 2.

    >>> dj.vlb.prior(dj.schedules.RectifiedFlow(), jnp.ones((2, 8, 8, 3))).tolist()
    [0.0, 0.0]
    """
    return _bits(jnp.exp(schedule.log_snr(1.0)) / 2 * x0**2)


@checked(variance=choice("small", "large", "learned"))
def term(
    schedule: Schedule,
    x0: jax.Array,
    denoised: Denoised,
    t: ArrayLike,
    s: ArrayLike,
    variance: str = "small",
) -> jax.Array:
    """Returns the term of the step from t to s < t, for p(x_s | x_t) = N(mean of q(x_s | x_t, x0-hat), variance), [B].

    L = KL(q(x_s | x_t, x0) || p(x_s | x_t)) where s > 0; at s = 0, where x_s is a uint8 image,
    the decoder's -log p(x0 | x_t) (Ho et al. 2020, Eq. 5 and 13).

    Args:
      schedule: the noise schedule.
      x0: images [B, ...] with values k/127.5 - 1.
      denoised: the denoiser's output for x_t.
      t, s: scalars or [B], s < t.
      variance: "small", the posterior's; "large", the forward step's; or "learned", given by
        `denoised.variance_fraction`. At s = 0 each is as in `forward.learned_variance`.

    Raises ValueError for another `variance`, and for "learned" if the network does not learn its variance.

    >>> schedule, x0 = dj.schedules.RectifiedFlow(), jnp.ones((2, 8, 8, 3))
    >>> dj.vlb.term(schedule, x0, dj.Denoised(x0, x0), t=0.5, s=0.25).tolist()
    [0.0, 0.0]
    """
    variance_s = forward.learned_variance(schedule, _range_fraction(denoised, variance), t, s)
    log_variance = jnp.log(variance_s)
    # The mean is linear in (x_t, x0): in the difference of two means x_t cancels exactly.
    gap, posterior = forward.posterior(schedule, jnp.zeros_like(x0), x0 - denoised.x0, t, s)
    posterior = forward.expand(posterior, x0)
    kl = normal_kl(gap, jnp.log(posterior), 0.0, log_variance)
    decoder = -discretised_log_likelihood(x0, denoised.x0, log_variance / 2)
    return _bits(jnp.where(posterior > 0, kl, decoder))


def normal_kl(mean1: ArrayLike, log_variance1: ArrayLike, mean2: ArrayLike, log_variance2: ArrayLike) -> jax.Array:
    """Returns KL(N(mean1, variance1) || N(mean2, variance2)) of each element, in nats.

    >>> dj.vlb.normal_kl(1.0, 0.0, 0.0, 0.0).item()
    0.5
    """
    ratio = jnp.asarray(log_variance1) - log_variance2
    distance2 = (jnp.asarray(mean1) - mean2) ** 2 * jnp.exp(-jnp.asarray(log_variance2))
    return (jnp.expm1(ratio) - ratio + distance2) / 2


def discretised_log_likelihood(x0: jax.Array, mean: jax.Array, log_std: jax.Array) -> jax.Array:
    """Returns the log of the mass of N(mean, std^2) in the bin of each element of x0, in nats (Ho et al. 2020, Eq. 13).

    x0 has the 256 values k/127.5 - 1; the bin of each is 2/255 wide, the outer two extend to infinity, so that the
    masses of all values sum to 1. The result and its gradients are finite for a std from 1e-6 to 1e6.

    >>> values = jnp.arange(256) / 127.5 - 1
    >>> log_masses = dj.vlb.discretised_log_likelihood(values, jnp.zeros(256), jnp.full(256, -1.0))
    >>> jnp.exp(log_masses).sum().round(4).item()
    1.0
    """
    # The normal distribution is symmetric: both edges are mirrored to the left tail, where log_ndtr is exact.
    centre, half = jnp.abs(x0 - mean) * jnp.exp(-log_std), _HALF_BIN * jnp.exp(-log_std)
    wide = jnp.maximum(half, _NARROW)  # the branch not chosen must not be log(0), which makes the gradient NaN
    near, far = log_ndtr(wide - centre), log_ndtr(-wide - centre)
    mass = near + jnp.log(-jnp.expm1(far - near))
    # The density's integral over a narrow bin, to the second order of its width.
    density = -(centre**2) / 2 - math.log(2 * math.pi) / 2 + half**2 * (centre**2 - 1) / 6
    inner = jnp.where(half < _NARROW, density + jnp.log(2 * half), mass)
    below = log_ndtr((x0 + _HALF_BIN - mean) * jnp.exp(-log_std))
    above = log_ndtr((mean - x0 + _HALF_BIN) * jnp.exp(-log_std))
    return jnp.where(x0 < -1 + _HALF_BIN, below, jnp.where(x0 > 1 - _HALF_BIN, above, inner))


def _range_fraction(denoised: Denoised, variance: str) -> jax.Array:
    """The fraction of the learned range, shaped like the images."""
    if variance in _FRACTIONS:
        return jnp.full_like(denoised.x0, _FRACTIONS[variance])
    if denoised.variance_fraction is None:
        raise ValueError('variance = "learned": the network must learn its variance; use "small" or "large"')
    return denoised.variance_fraction


def _bits(nats: jax.Array) -> jax.Array:
    """Mean over the elements of each image, [B], in bits."""
    return jnp.mean(nats, axis=tuple(range(1, nats.ndim))) / math.log(2)


def __dir__() -> list[str]:
    return __all__
