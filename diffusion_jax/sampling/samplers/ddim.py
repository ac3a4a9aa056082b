"""Denoising diffusion implicit models."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from diffusion_jax.process import forward
from diffusion_jax.sampling.samplers.base import Sampler, check_eta, noise


@dataclasses.dataclass(frozen=True)
class DDIM(Sampler):
    """x_s = alpha_s x0 + sqrt(sigma_s^2 - tau^2) eps + tau z, with tau^2 = eta^2 var.

    (Song et al. 2021, Eq. 12 and 16.) var is the posterior's variance: eta = 0 follows the
    probability flow, eta = 1 is DDPM in law.
    """

    order: ClassVar[int] = 1
    eta: float = 0.0

    def __post_init__(self):
        check_eta(self)

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        x0, eps = denoise(x_t, t)
        variance = self.eta**2 * forward.posterior(schedule, x_t, x0, t, s)[1]
        # sigma_s^2 - variance, which as a difference cancels at eta = 1 near t = 1.
        left = jnp.exp(schedule.log_snr(t) - schedule.log_snr(s))
        direction = schedule.sigma(s) * jnp.sqrt((1 - self.eta) * (1 + self.eta) + self.eta**2 * left)
        x_s = schedule.alpha(s) * x0 + direction * eps
        return x_s + jnp.sqrt(variance) * noise(keys, x_t.shape[1:]), memory
