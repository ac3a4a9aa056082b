"""Exponential integrators: what DPM-Solver++, UniPC and DEIS have in common.

With lambda = log_snr/2 and h = lambda_s - lambda_t, the probability flow (eta = 0) and stochastic processes
with the same marginals (eta > 0) take x_t to

    x_s = keep x_t + gain D + spread z,    keep = (sigma_s/sigma_t) e^(-eta h),
    gain = alpha_s - alpha_t keep,         spread^2 = sigma_s^2 (1 - e^(-2 eta h)),

where D is the average of x0 over the step, with density proportional to e^((1 + eta) lambda), and z is
standard normal (Lu et al. 2022b, Prop. 4.1, and their SDE-DPM-Solver++ at eta = 1; in between, eta is the
tau^2 of Xue et al. 2023). All but D is exact: a method is the polynomial in lambda that it takes for x0.
"""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from diffusion_jax.process.schedules import Schedule

# Gauss and Legendre's rule, from [-1, 1] to [0, 1]. Sixteen points are exact for the polynomials, and within
# float32 for a density e^(tilt u) up to the tilt below. A steeper one is taken for that: its mass lies
# within 1/30 of an end.
_POINTS, _SHARES = np.array(np.polynomial.legendre.leggauss(16), np.float32)
_POINTS = (1 + _POINTS) / 2
_STEEPEST = 30.0


class Past(NamedTuple):
    """Values from earlier steps and the lambda where each stands, the newest first."""

    values: tuple[jax.Array, ...]  # k of [B, H, W, C]
    places: jax.Array  # [k]; +inf where there is none yet

    @staticmethod
    def nothing(x: jax.Array, k: int) -> "Past":
        """Room for k values shaped like x."""
        return Past((jnp.zeros_like(x),) * k, jnp.full((k,), jnp.inf, jnp.float32))

    def then(self, value: jax.Array, place: jax.Array) -> "Past":
        """The same number of values, with this one in front."""
        k = len(self.values)
        return Past((value, *self.values)[:k], jnp.append(place, self.places)[:k])


class Transfer(NamedTuple):
    """The exact part of a step, scalars; to data (sigma_s = 0) they are 0, 1 and 0."""

    keep: jax.Array
    gain: jax.Array
    spread: jax.Array

    def __call__(self, x_t: jax.Array, direction: jax.Array) -> jax.Array:
        """keep x_t + gain D, [B, H, W, C]: the mean of x_s."""
        return self.keep * x_t + self.gain * direction


def transfer(schedule: Schedule, t: ArrayLike, s: ArrayLike, eta: float = 0.0) -> Transfer:
    """That of the step from t to s."""
    h = (schedule.log_snr(s) - schedule.log_snr(t)) / 2
    h = jnp.minimum(h, jnp.finfo(jnp.float32).max)  # 0 times infinity has no value, eta = 0 has
    keep = schedule.sigma(s) / schedule.sigma(t) * jnp.exp(-eta * h)
    gain = schedule.alpha(s) - schedule.alpha(t) * keep  # so that a point mass stays one, whatever rounds
    return Transfer(keep, gain, schedule.sigma(s) * jnp.sqrt(-jnp.expm1(-2 * eta * h)))


def weights(places: jax.Array, start: jax.Array, stop: jax.Array, rate: float) -> jax.Array:
    """Weights [k] of the values at `places` in the average of a polynomial over the step from start to stop.

    It is the polynomial through these values and the one at `start`, whose weight is what the others leave
    of 1; the density is proportional to e^(rate lambda). Places that are not finite count for nothing. Over
    a step of infinite length, from zero SNR or to data, none counts: the rule is then of first order.

    In units of the step, the value at n_j weighs the average of u/n_j prod_i (u - n_i)/(n_j - n_i),
    Lagrange's. It is taken by quadrature: its closed form in e^h, h and 1 loses all digits where h is small.
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
    tilt = jnp.clip(rate * length, -_STEEPEST, _STEEPEST)
    density = _SHARES * jnp.exp(tilt * _POINTS - jnp.maximum(tilt, 0.0))
    return jnp.where(known, (density[:, None] * basis).sum(0) / density.sum(), 0.0)


def lean(values: Iterable[jax.Array], towards: jax.Array, base: jax.Array) -> jax.Array:
    """sum_j towards_j (values_j - base): by how much the average differs from `base`."""
    return sum((w * (value - base) for w, value in zip(towards, values, strict=True)), jnp.zeros_like(base))
