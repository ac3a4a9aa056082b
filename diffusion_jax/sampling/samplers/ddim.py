"""Denoising diffusion implicit models."""

import dataclasses

import jax.numpy as jnp

from diffusion_jax.process import forward
from diffusion_jax.process.numerics import safe_sqrt
from diffusion_jax.pytrees import register_dataclass
from diffusion_jax.sampling.randomness import standard_normal
from diffusion_jax.sampling.samplers.base import Sampler
from diffusion_jax.validation import number

__all__ = ["DDIM"]


@register_dataclass
@dataclasses.dataclass(frozen=True)
class DDIM(Sampler):
    """x_s = alpha_s x0 + sqrt(sigma_s^2 - tau^2) eps + tau z, with tau^2 = eta^2 var (Song et al. 2021, Eq. 12, 16).

    var is the posterior's variance. One call of the denoiser per step; first order.

    Attributes:
      eta: amount of noise: 0 follows the probability flow, 1 has the same law as DDPM.

    >>> dj.samplers.DDIM(eta=0.5).order
    1
    """

    eta: float = dataclasses.field(default=0.0, metadata=number("[0, 1]"))

    @property
    def order(self):
        return 1

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        here = denoise(x_t, t)
        tau = self.eta * safe_sqrt(forward.posterior(schedule, x_t, here.x0, t, s)[1])
        # sigma_s^2 - tau^2, which as a difference cancels at eta = 1 near t = 1.
        left = jnp.exp(schedule.log_snr(t) - schedule.log_snr(s))
        direction = schedule.sigma(s) * safe_sqrt((1 - self.eta) * (1 + self.eta) + self.eta**2 * left)
        x_s = schedule.alpha(s) * here.x0 + direction * here.eps
        return x_s + tau * standard_normal(keys, x_t.shape[1:]), memory
