"""Heun's rule on the probability flow, with or without churn."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from diffusion_jax.process import forward
from diffusion_jax.sampling.randomness import standard_normal
from diffusion_jax.sampling.samplers.base import Sampler, nearest
from diffusion_jax.validation import number

_MOST_CHURN = math.sqrt(2) - 1  # at most twice the variance of the noise


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Heun(Sampler):
    """The trapezoidal rule on dx = x0 d(alpha) + eps d(sigma) (Karras et al. 2022, Alg. 1 and 2).

    Where alpha = 1 that is EDM's, on a rectified flow Heun's on the velocity, and it divides by neither
    alpha nor sigma. Two calls of the denoiser a step, one in the step to data.

    With `churn` a step starts from more noise than x_t has: fresh noise raises nsr = sigma/alpha to
    (1 + churn) nsr, and the time to the one with so much. `churn` is EDM's S_churn/N of N steps and counts
    up to sqrt(2) - 1; it acts where `churn_min` <= nsr <= `churn_max` (S_tmin, S_tmax), and `noise_scale`
    multiplies the fresh noise (S_noise). A discrete schedule is raised to the nearest time of its table, and
    none beyond t = 1. The order is that of the rule without churn.
    """

    churn: float = dataclasses.field(default=0.0, metadata=number("[0, inf)"))
    churn_min: float = dataclasses.field(default=0.0, metadata=number("[0, inf)"))
    churn_max: float = dataclasses.field(default=1e9, metadata=number("[0, inf)"))
    noise_scale: float = dataclasses.field(default=1.0, metadata=number("[0, inf)"))

    @property
    def order(self):
        return 2

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        if not (isinstance(self.churn, float) and self.churn == 0):  # 0 is known where jit does not trace it
            x_t, t = self._churned(keys, schedule, x_t, t)
        d_alpha = schedule.alpha(s) - schedule.alpha(t)
        d_sigma = schedule.sigma(s) - schedule.sigma(t)
        here = denoise(x_t, t)
        euler = x_t + d_alpha * here.x0 + d_sigma * here.eps

        def corrected() -> jax.Array:
            there = denoise(euler, s)
            x0, eps = (here.x0 + there.x0) / 2, (here.eps + there.eps) / 2
            return x_t + d_alpha * x0 + d_sigma * eps

        # At sigma = 0 there is no eps to ask for; x0-hat itself is the answer.
        end = schedule.alpha(s) * here.x0
        return jax.lax.cond(schedule.sigma(s) > 0, corrected, lambda: end), memory

    def _churned(self, keys, schedule, x_t, t):
        """x_t with more noise, and the time that has so much (Alg. 2 of EDM, the first half of a step)."""
        nsr = jnp.exp(-schedule.log_snr(t) / 2)
        within = (self.churn_min <= nsr) & (nsr <= self.churn_max)
        gamma = jnp.where(within, jnp.minimum(self.churn, _MOST_CHURN), 0.0)
        raised = nearest(schedule, schedule.time(schedule.log_snr(t) - 2 * jnp.log1p(gamma)))
        raised = jnp.where(gamma > 0, jnp.maximum(raised, t), t)  # t itself, whatever the inverse rounds to

        def noisier() -> jax.Array:
            mean, variance = forward.transition(schedule, x_t, raised, t)
            return mean + self.noise_scale * jnp.sqrt(variance) * standard_normal(keys, x_t.shape[1:])

        return jax.lax.cond(raised > t, noisier, lambda: x_t), raised
