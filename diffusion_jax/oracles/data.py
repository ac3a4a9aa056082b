"""Data whose diffusion is closed form: the denoiser, the probability flow and the marginals are known.

A picture's pixels lie along the last axis, [..., C]. Each class gives `denoised`, the pair (E[x0 | x_t],
E[eps | x_t]); `network` makes of it a network that always outputs the best prediction. Answers are
float64 numpy, the networks jax.numpy, as they run inside the samplers.
"""

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import ndtr

from diffusion_jax.process.predictions import Denoised, Preconditioned, Prediction
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling.denoiser import Denoise, denoiser

Scales = tuple[float, float]  # (alpha, sigma) at a time


class Data(Protocol):
    def denoised(self, x_t: jax.Array, alpha: Any, sigma: Any) -> Denoised: ...


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """N(mean, std^2), each a number or one for each pixel. std = 0 is a point mass."""

    mean: Any = 0.3
    std: Any = 0.5

    def denoised(self, x_t, alpha, sigma) -> Denoised:
        """By the rule for jointly Gaussian variables: the surprise in x_t, shared out."""
        mean, variance = jnp.asarray(self.mean), jnp.asarray(self.std) ** 2
        surprise = (x_t - alpha * mean) / (alpha**2 * variance + sigma**2)
        return Denoised(mean + alpha * variance * surprise, sigma * surprise)

    def flow(self, x_t: Any, at_t: Scales, at_s: Scales) -> np.ndarray:
        """x_s on the probability flow from x_t: each marginal's quantiles go to the next one's."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = at_t, at_s
        mean, variance = np.asarray(self.mean), np.asarray(self.std) ** 2
        gain = np.sqrt((alpha_s**2 * variance + sigma_s**2) / (alpha_t**2 * variance + sigma_t**2))
        return alpha_s * mean + gain * (np.asarray(x_t, np.float64) - alpha_t * mean)

    def denoiser(self, schedule: Schedule, prediction: Prediction) -> Denoise:
        """A network that always outputs the best `prediction`, behind `denoiser`."""
        return exact_denoiser(self, schedule, prediction)


@dataclasses.dataclass(frozen=True)
class Correlated:
    """A Gaussian of two pixels that are not independent: what mixes up axes shows here."""

    mean: tuple[float, float] = (0.4, -0.2)
    std: tuple[float, float] = (0.6, 0.3)
    correlation: float = 0.8

    @property
    def covariance(self) -> np.ndarray:
        both = self.correlation * self.std[0] * self.std[1]
        return np.array([[self.std[0] ** 2, both], [both, self.std[1] ** 2]])

    def denoised(self, x_t, alpha, sigma) -> Denoised:
        # Along the axes of the ellipse the two are independent.
        variances, axes = np.linalg.eigh(self.covariance)
        mean = jnp.asarray(self.mean)
        surprise = ((x_t - alpha * mean) @ axes) / (alpha**2 * variances + sigma**2)
        return Denoised(mean + (alpha * variances * surprise) @ axes.T, sigma * surprise @ axes.T)

    def flow(self, x_t: Any, at_t: Scales, at_s: Scales) -> np.ndarray:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = at_t, at_s
        variances, axes = np.linalg.eigh(self.covariance)
        gain = np.sqrt((alpha_s**2 * variances + sigma_s**2) / (alpha_t**2 * variances + sigma_t**2))
        apart = (np.asarray(x_t, np.float64) - alpha_t * np.asarray(self.mean)) @ axes
        return alpha_s * np.asarray(self.mean) + (gain * apart) @ axes.T


@dataclasses.dataclass(frozen=True)
class Mixture:
    """sum_k weights_k N(means_k, std^2), each pixel by itself."""

    means: tuple[float, ...] = (-0.6, 0.5)
    weights: tuple[float, ...] = (0.3, 0.7)
    std: float = 0.2

    def denoised(self, x_t, alpha, sigma) -> Denoised:
        total = alpha**2 * self.std**2 + sigma**2
        apart = x_t[..., None] - jnp.asarray(alpha)[..., None] * jnp.asarray(self.means)
        variance = jnp.asarray(total)[..., None]
        share = jax.nn.softmax(jnp.log(jnp.asarray(self.weights)) - apart**2 / (2 * variance), -1)
        surprise = jnp.sum(share * apart / variance, -1)
        mean = jnp.sum(share * jnp.asarray(self.means), -1)
        return Denoised(mean + alpha * self.std**2 * surprise, sigma * surprise)

    def cdf(self, x: Any, alpha: float = 1.0, sigma: float = 0.0) -> np.ndarray:
        """P(x_t <= x) at the time of (alpha, sigma)."""
        spread = np.sqrt(alpha**2 * self.std**2 + sigma**2)
        x = np.asarray(x, np.float64)
        return sum(w * ndtr((x - alpha * m) / spread) for w, m in zip(self.weights, self.means, strict=True))

    def flow(self, x_t: Any, at_t: Scales, at_s: Scales) -> np.ndarray:
        """Along the flow of one dimension no two paths cross: a quantile stays one."""
        wanted = self.cdf(x_t, *at_t)
        low, high = np.full(np.shape(x_t), -30 * sum(at_s)), np.full(np.shape(x_t), 30 * sum(at_s))
        for _ in range(60):
            middle = (low + high) / 2
            below = self.cdf(middle, *at_s) < wanted
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return (low + high) / 2


def exact_denoiser(data: Data, schedule: Schedule, prediction: Prediction) -> Denoise:
    """A network that always outputs the best `prediction` for `data`, behind `dj.denoiser`.

    As a network would, it knows only the times it is trained on: at others it answers NaN.
    """

    def apply(params, x, time, labels, x0_hat=None):  # it needs no guess
        time = time.reshape(-1, *[1] * (x.ndim - 1))
        if isinstance(prediction, Preconditioned):
            # It is told -log_snr/8, and shown x_t at unit variance (for the std it assumes).
            alpha, sigma = schedule.scales(-8 * time)
            x = x * jnp.sqrt(sigma**2 + (alpha * prediction.sigma_data) ** 2)
            time = schedule.time(-8 * time)
        else:
            alpha, sigma = schedule.alpha(time), schedule.sigma(time)
        exact = data.denoised(x, alpha, sigma)
        output = prediction.target(exact.x0, exact.eps, alpha, sigma)
        if schedule.steps is None:
            return output
        k = time * schedule.steps
        trained = (jnp.abs(k - jnp.round(k)) < 0.02) & (k > 0.5) & (k < schedule.steps + 0.5)
        return jnp.where(trained, output, jnp.nan)

    return denoiser(apply, None, schedule, prediction)


def side_by_side(denoisers: list[Denoise], pixels: list[int]) -> Denoise:
    """Each denoiser on its own number of a picture's pixels: many cases for the price of one compile."""
    edges = np.cumsum(pixels)[:-1]

    def denoise(x_t, t, **given):
        row = x_t.reshape(len(x_t), 1, 1, -1)
        parts = [f(x, t, **given) for f, x in zip(denoisers, jnp.split(row, edges, axis=-1), strict=True)]
        return jax.tree.map(lambda *part: jnp.concatenate(part, -1).reshape(x_t.shape), *parts)

    return denoise
