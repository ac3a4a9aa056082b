"""Ancestral sampling."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from diffusion_jax.process import forward
from diffusion_jax.sampling.samplers.base import Sampler, noise


@dataclasses.dataclass(frozen=True)
class DDPM(Sampler):
    """Ancestral sampling from p(x_s | x_t) = q(x_s | x_t, x0-hat) (Ho et al. 2020, Alg. 2).

    `variance` is "small", that of the posterior (their beta-tilde, right for point-mass data), or
    "large", that of the forward step q(x_t | x_s) (their beta, right for Gaussian data of unit variance).
    """

    order: ClassVar[int] = 1
    variance: str = "small"

    def __post_init__(self):
        if self.variance not in ("small", "large"):
            raise ValueError(f'variance = "{self.variance}": must be "small" or "large"')

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        mean, variance = forward.posterior(schedule, x_t, denoise(x_t, t).x0, t, s)
        if self.variance == "large":
            forward_variance = forward.transition(schedule, x_t, t, s)[1]
            variance = jnp.where(schedule.sigma(s) > 0, forward_variance, 0.0)  # no noise on data
        return mean + jnp.sqrt(variance) * noise(keys, x_t.shape[1:]), memory
