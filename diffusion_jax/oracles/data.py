"""Data with a closed-form denoiser, probability flow and density.

Every distribution has `denoised`, the best estimate (E[x0 | x_t], E[eps | x_t]) in `jax.numpy`, and `flow`, the
probability flow in float64 NumPy. Pixels lie along the last axis, [..., C]. A noise level is the pair
(alpha, sigma) of x_t = alpha x0 + sigma eps.
"""

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from scipy.special import logsumexp, ndtr

from diffusion_jax.process.predictions import Denoised
from diffusion_jax.process.schedules import Schedule

__all__ = ["Correlated", "Data", "Gaussian", "Mixture", "PointMass", "Scales", "scales"]

Scales = tuple[Any, Any]  # (alpha, sigma) at one time


def scales(schedule: Schedule, t: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """(alpha, sigma) of `schedule` at t as float64, each shaped like t.

    >>> alpha, sigma = dj.oracles.scales(dj.schedules.RectifiedFlow(), 0.25)
    >>> float(alpha), float(sigma)
    (0.75, 0.25)
    """
    return np.asarray(schedule.alpha(t), np.float64), np.asarray(schedule.sigma(t), np.float64)


class Data(abc.ABC):
    """Base of the distributions of clean images.

    >>> isinstance(dj.oracles.Mixture(), dj.oracles.Data)
    True
    """

    @abc.abstractmethod
    def denoised(self, x_t: jax.Array, alpha: ArrayLike, sigma: ArrayLike) -> Denoised:
        """(E[x0 | x_t], E[eps | x_t]), each shaped like x_t; alpha and sigma must broadcast against x_t."""

    @abc.abstractmethod
    def flow(self, x_t: ArrayLike, at_t: Scales, at_s: Scales) -> np.ndarray:
        """x_s, float64 shaped like x_t, where the probability flow takes x_t from noise level `at_t` to `at_s`."""


@dataclasses.dataclass(frozen=True)
class Gaussian(Data):
    """Independent pixels N(mean, std^2).

    Attributes:
      mean: a number, or an array that broadcasts against images (one mean per pixel).
      std: likewise; 0 makes a pixel a point mass.

    >>> dj.oracles.Gaussian(mean=0.0, std=1.0).flow([2.0], at_t=(0.6, 0.8), at_s=(1.0, 0.0))
    array([2.])
    """

    mean: Any = 0.3
    std: Any = 0.5

    def denoised(self, x_t, alpha, sigma) -> Denoised:
        # Conditional mean of jointly Gaussian variables.
        mean, variance = jnp.asarray(self.mean), jnp.asarray(self.std) ** 2
        residual = (x_t - alpha * mean) / (alpha**2 * variance + sigma**2)
        return Denoised(mean + alpha * variance * residual, sigma * residual)

    def flow(self, x_t, at_t, at_s) -> np.ndarray:
        # Quantiles of the marginal at t go to the same quantiles at s.
        (alpha_t, sigma_t), (alpha_s, sigma_s) = at_t, at_s
        mean, variance = np.asarray(self.mean), np.asarray(self.std) ** 2
        gain = np.sqrt((alpha_s**2 * variance + sigma_s**2) / (alpha_t**2 * variance + sigma_t**2))
        return alpha_s * mean + gain * (np.asarray(x_t, np.float64) - alpha_t * mean)

    def log_density(self, x: ArrayLike) -> np.ndarray:
        """log p(x) of each pixel of clean images, float64, shaped like x."""
        z = (np.asarray(x, np.float64) - self.mean) / self.std
        return -(z**2) / 2 - np.log(np.sqrt(2 * np.pi) * np.asarray(self.std))


@dataclasses.dataclass(frozen=True)
class PointMass(Gaussian):
    """Every pixel equals `mean`: a Gaussian of standard deviation 0. An exact sampler ends on it exactly.

    >>> dj.oracles.PointMass(0.25).flow([-1.0, 3.0], at_t=(0.6, 0.8), at_s=(1.0, 0.0))
    array([0.25, 0.25])
    """

    mean: Any = -0.4
    std: Any = dataclasses.field(default=0.0, init=False)


@dataclasses.dataclass(frozen=True)
class Correlated(Data):
    """A Gaussian of two correlated pixels, [..., 2]: shows whether an operation mixes up pixels or axes.

    >>> dj.oracles.Correlated().covariance.round(3)
    array([[0.36 , 0.144],
           [0.144, 0.09 ]])
    """

    mean: tuple[float, float] = (0.4, -0.2)
    std: tuple[float, float] = (0.6, 0.3)
    correlation: float = 0.8

    @property
    def covariance(self) -> np.ndarray:
        """float64 [2, 2]."""
        both = self.correlation * self.std[0] * self.std[1]
        return np.array([[self.std[0] ** 2, both], [both, self.std[1] ** 2]])

    def denoised(self, x_t, alpha, sigma) -> Denoised:
        # Along the principal axes the two are independent.
        variances, axes = np.linalg.eigh(self.covariance)
        mean = jnp.asarray(self.mean)
        residual = ((x_t - alpha * mean) @ axes) / (alpha**2 * variances + sigma**2)
        return Denoised(mean + (alpha * variances * residual) @ axes.T, sigma * residual @ axes.T)

    def flow(self, x_t, at_t, at_s) -> np.ndarray:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = at_t, at_s
        variances, axes = np.linalg.eigh(self.covariance)
        gain = np.sqrt((alpha_s**2 * variances + sigma_s**2) / (alpha_t**2 * variances + sigma_t**2))
        along_axes = (np.asarray(x_t, np.float64) - alpha_t * np.asarray(self.mean)) @ axes
        return alpha_s * np.asarray(self.mean) + (gain * along_axes) @ axes.T

    def log_density(self, x: ArrayLike) -> np.ndarray:
        """log p(x) of each pair of pixels of clean images [..., 2], float64 [...]."""
        residual = np.asarray(x, np.float64) - np.asarray(self.mean)
        squared = np.einsum("...i,ij,...j->...", residual, np.linalg.inv(self.covariance), residual)
        return -squared / 2 - np.log(2 * np.pi) - np.linalg.slogdet(self.covariance)[1] / 2


@dataclasses.dataclass(frozen=True)
class Mixture(Data):
    """Independent pixels of density sum_k weights_k N(means_k, std^2).

    >>> float(dj.oracles.Mixture(means=(-1.0, 1.0), weights=(0.5, 0.5)).cdf(0.0))
    0.5
    """

    means: tuple[float, ...] = (-0.6, 0.5)
    weights: tuple[float, ...] = (0.3, 0.7)
    std: float = 0.2

    def denoised(self, x_t, alpha, sigma) -> Denoised:
        variance = jnp.asarray(alpha**2 * self.std**2 + sigma**2)[..., None]
        residuals = x_t[..., None] - jnp.asarray(alpha)[..., None] * jnp.asarray(self.means)
        posterior = jax.nn.softmax(jnp.log(jnp.asarray(self.weights)) - residuals**2 / (2 * variance), -1)
        residual = jnp.sum(posterior * residuals / variance, -1)
        mean = jnp.sum(posterior * jnp.asarray(self.means), -1)
        return Denoised(mean + alpha * self.std**2 * residual, sigma * residual)

    def cdf(self, x: ArrayLike, alpha: float = 1.0, sigma: float = 0.0) -> np.ndarray:
        """P(x_t <= x) of each pixel at noise level (alpha, sigma), float64, shaped like x."""
        std = np.sqrt(alpha**2 * self.std**2 + sigma**2)
        x = np.asarray(x, np.float64)
        return sum(w * ndtr((x - alpha * m) / std) for w, m in zip(self.weights, self.means, strict=True))

    def flow(self, x_t, at_t, at_s) -> np.ndarray:
        # Paths of a one-dimensional flow never cross, so quantiles are kept; the quantile function is a bisection.
        wanted = self.cdf(x_t, *at_t)
        low, high = np.full(np.shape(x_t), -30 * sum(at_s)), np.full(np.shape(x_t), 30 * sum(at_s))
        for _ in range(60):
            middle = (low + high) / 2
            is_below = self.cdf(middle, *at_s) < wanted
            low, high = np.where(is_below, middle, low), np.where(is_below, high, middle)
        return (low + high) / 2

    def log_density(self, x: ArrayLike) -> np.ndarray:
        """log p(x) of each pixel of clean images, float64, shaped like x."""
        z = (np.asarray(x, np.float64)[..., None] - np.asarray(self.means)) / self.std
        return logsumexp(-(z**2) / 2, b=np.asarray(self.weights), axis=-1) - np.log(np.sqrt(2 * np.pi) * self.std)


def __dir__() -> list[str]:
    return __all__
