"""Exponential integrators: the parts that DPM-Solver++, UniPC and DEIS share.

With lambda = log_snr/2 and h = lambda_s - lambda_t, the probability flow (eta = 0) and stochastic processes
with the same marginals (eta > 0) take x_t to

    x_s = keep x_t + gain D + spread z,    keep = (sigma_s/sigma_t) e^(-eta h),
    gain = alpha_s - alpha_t keep,         spread^2 = sigma_s^2 (1 - e^(-2 eta h)),

where D is the average of x0 over the step, with density proportional to e^((1 + eta) lambda), and z is
standard normal (Lu et al. 2022b, Prop. 4.1, and their SDE-DPM-Solver++ at eta = 1; in between, eta is the
tau^2 of Xue et al. 2023). All but D is exact: methods differ in the polynomial in lambda that replaces x0.
"""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from diffusion_jax.process.numerics import safe_sqrt
from diffusion_jax.process.schedules import Schedule

__all__ = ["ExactStep", "History", "exact_step", "weighted_difference", "weights"]

# Gauss-Legendre quadrature, moved from [-1, 1] to [0, 1]. Sixteen points are exact for the polynomials, and within
# float32 for a density e^(tilt u) up to the tilt below. A steeper density is replaced by that one: its mass lies
# within 1/30 of an end.
_POINTS, _POINT_WEIGHTS = np.array(np.polynomial.legendre.leggauss(16), np.float32)
_POINTS = (1 + _POINTS) / 2
_MAX_TILT = 30.0


class History(NamedTuple):
    """Values from earlier steps and the lambda of each, the newest first.

    >>> history = History.empty(jnp.zeros((1, 8, 8, 3)), 2).push(jnp.ones((1, 8, 8, 3)), jnp.float32(0.5))
    >>> history.places.tolist()
    [0.5, inf]
    """

    values: tuple[jax.Array, ...]  # k of [B, H, W, C]
    places: jax.Array  # [k]; +inf where there is no value yet

    @staticmethod
    def empty(x: jax.Array, k: int) -> "History":
        """Returns a history with room for k values shaped like x."""
        return History((jnp.zeros_like(x),) * k, jnp.full((k,), jnp.inf, jnp.float32))

    def push(self, value: jax.Array, place: jax.Array) -> "History":
        """Returns a history of the same length with this value in front; the oldest is dropped."""
        k = len(self.values)
        return History((value, *self.values)[:k], jnp.append(place, self.places)[:k])


class ExactStep(NamedTuple):
    """The coefficients of the exact step, scalars; for a step to data (sigma_s = 0) they are 0, 1 and 0."""

    keep: jax.Array
    gain: jax.Array
    spread: jax.Array

    def mean(self, x_t: jax.Array, direction: jax.Array) -> jax.Array:
        """Returns keep x_t + gain D, [B, H, W, C]: the mean of x_s."""
        return self.keep * x_t + self.gain * direction


def exact_step(schedule: Schedule, t: ArrayLike, s: ArrayLike, eta: float = 0.0) -> ExactStep:
    """Returns the coefficients of the exact step from t to s.

    >>> exact_step(dj.schedules.RectifiedFlow(), 0.5, 0.0).gain.item()
    1.0
    """
    h = (schedule.log_snr(s) - schedule.log_snr(t)) / 2
    h = jnp.minimum(h, jnp.finfo(jnp.float32).max / 4)  # finite, and so is 2 h, which the compiler may form
    keep = schedule.sigma(s) / schedule.sigma(t) * jnp.exp(-eta * h)
    gain = schedule.alpha(s) - schedule.alpha(t) * keep  # maps a point mass to itself, however keep rounds
    return ExactStep(keep, gain, schedule.sigma(s) * safe_sqrt(-jnp.expm1(-2 * eta * h)))


def weights(places: jax.Array, start: jax.Array, stop: jax.Array, rate: float) -> jax.Array:
    """Weights [k] of the values at `places` in the average of a polynomial over the step from start to stop.

    The polynomial passes through these values and the value at `start`, whose weight is 1 minus the others; the
    density of the average is proportional to e^(rate lambda). Places that are not finite get weight 0. Over a step
    of infinite length, from zero SNR or to data, all weights are 0: the method is then of first order.

    In units of the step, the value at n_j gets the average of Lagrange's u/n_j prod_i (u - n_i)/(n_j - n_i). It is
    computed by quadrature: its closed form in e^h, h and 1 loses all digits where h is small.

    >>> weights(jnp.array([-1.0, jnp.inf]), 0.0, 1.0, 0.0).tolist()
    [-0.5, 0.0]
    """
    finite = jnp.isfinite(stop - start)
    length = jnp.where(finite, stop - start, 1.0)
    nodes = (places - jnp.where(finite, start, 0.0)) / length
    known = jnp.isfinite(nodes) & finite
    nodes = jnp.where(known, nodes, 1.0)
    others = known & ~np.eye(len(nodes), dtype=bool)  # [j, i]
    apart = jnp.where(others, nodes[:, None] - nodes, 1.0)
    factors = jnp.where(others, (_POINTS[:, None, None] - nodes) / apart, 1.0)  # [point, j, i]
    basis = _POINTS[:, None] / nodes * factors.prod(-1)  # [point, j]
    tilt = jnp.clip(rate * length, -_MAX_TILT, _MAX_TILT)
    density = _POINT_WEIGHTS * jnp.exp(tilt * _POINTS - jnp.maximum(tilt, 0.0))
    return jnp.where(known, (density[:, None] * basis).sum(0) / density.sum(), 0.0)


def weighted_difference(values: Iterable[jax.Array], value_weights: jax.Array, base: jax.Array) -> jax.Array:
    """Returns sum_j w_j (values_j - base), the difference of the weighted average from `base`.

    >>> weighted_difference([jnp.array([3.0])], jnp.array([0.5]), jnp.array([1.0])).tolist()
    [1.0]
    """
    pairs = zip(value_weights, values, strict=True)
    return sum((w * (value - base) for w, value in pairs), jnp.zeros_like(base))
