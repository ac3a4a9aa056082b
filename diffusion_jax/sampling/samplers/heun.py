"""Heun's method on the probability flow, with or without churn."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from diffusion_jax.process import forward
from diffusion_jax.process.numerics import safe_sqrt
from diffusion_jax.pytrees import register_dataclass
from diffusion_jax.sampling.randomness import standard_normal
from diffusion_jax.sampling.samplers.base import Sampler, nearest_time
from diffusion_jax.validation import number

__all__ = ["Heun"]

_MAX_CHURN = math.sqrt(2) - 1  # at most twice the variance of the noise


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Heun(Sampler):
    """The trapezoidal rule on dx = x0 d(alpha) + eps d(sigma) (Karras et al. 2022, Alg. 1 and 2).

    Where alpha = 1 this is EDM's step, on a rectified flow Heun's method on the velocity; it divides by neither
    alpha nor sigma. Two calls of the denoiser per step, one in the step to data.

    With `churn` a step starts from more noise than x_t has: fresh noise raises nsr = sigma/alpha to (1 + churn) nsr,
    and the time with it. A discrete schedule uses the nearest time of its table; no time exceeds t = 1. `order`
    refers to the method without churn.

    Attributes:
      churn: EDM's S_churn/N for N steps; at most sqrt(2) - 1 takes effect.
      churn_min: smallest nsr at which churn acts (S_tmin).
      churn_max: largest nsr at which churn acts (S_tmax).
      noise_scale: factor of the fresh noise (S_noise).

    >>> dj.samplers.Heun(churn=0.1, churn_min=0.05).order
    2
    """

    churn: float = dataclasses.field(default=0.0, metadata=number("[0, inf)"))
    churn_min: float = dataclasses.field(default=0.0, metadata=number("[0, inf)"))
    churn_max: float = dataclasses.field(default=1e9, metadata=number("[0, inf)"))
    noise_scale: float = dataclasses.field(default=1.0, metadata=number("[0, inf)"))

    @property
    def order(self):
        return 2

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        if not (isinstance(self.churn, float) and self.churn == 0):  # skipped if churn is the number 0, not traced
            x_t, t = self._add_noise(keys, schedule, x_t, t)
        d_alpha = schedule.alpha(s) - schedule.alpha(t)
        d_sigma = schedule.sigma(s) - schedule.sigma(t)
        here = denoise(x_t, t)
        euler = x_t + d_alpha * here.x0 + d_sigma * here.eps

        def corrected() -> jax.Array:
            there = denoise(euler, s)
            x0, eps = (here.x0 + there.x0) / 2, (here.eps + there.eps) / 2
            return x_t + d_alpha * x0 + d_sigma * eps

        # At sigma = 0 there is no noise left to estimate: x0-hat is the result.
        end = schedule.alpha(s) * here.x0
        return jax.lax.cond(schedule.sigma(s) > 0, corrected, lambda: end), memory

    def _add_noise(self, keys, schedule, x_t, t):
        """x_t with more noise, and the time of that noise level (the first half of a step of EDM's Alg. 2)."""
        nsr = jnp.exp(-schedule.log_snr(t) / 2)
        within = (self.churn_min <= nsr) & (nsr <= self.churn_max)
        gamma = jnp.where(within, jnp.minimum(self.churn, _MAX_CHURN), 0.0)
        raised = nearest_time(schedule, schedule.time(schedule.log_snr(t) - 2 * jnp.log1p(gamma)))
        raised = jnp.where(gamma > 0, jnp.maximum(raised, t), t)  # exactly t, however the inverse rounds

        def noisier() -> jax.Array:
            mean, variance = forward.transition(schedule, x_t, raised, t)
            return mean + self.noise_scale * safe_sqrt(variance) * standard_normal(keys, x_t.shape[1:])

        return jax.lax.cond(raised > t, noisier, lambda: x_t), raised
