"""Ancestral sampling."""

import dataclasses

import jax.numpy as jnp

from diffusion_jax.process import forward
from diffusion_jax.process.numerics import safe_sqrt
from diffusion_jax.pytrees import register_dataclass
from diffusion_jax.sampling.randomness import standard_normal
from diffusion_jax.sampling.samplers.base import Sampler
from diffusion_jax.validation import STATIC, choice

__all__ = ["DDPM"]


@register_dataclass
@dataclasses.dataclass(frozen=True)
class DDPM(Sampler):
    """Ancestral sampling from p(x_s | x_t) = q(x_s | x_t, x0-hat) (Ho et al. 2020, Alg. 2).

    One call of the denoiser per step; first order.

    Attributes:
      variance: variance of the step:

        - "small", the posterior's (their beta-tilde), right for data of a single point;
        - "large", the variance of the forward step q(x_t | x_s) (their beta), right for Gaussian data of unit
          variance;
        - "learned", between the two, given by the network (Nichol and Dhariwal 2021, Eq. 15; see
          `forward.learned_variance`). Raises ValueError if the network does not learn its variance.

    >>> dj.samplers.DDPM("large").order
    1
    """

    variance: str = dataclasses.field(default="small", metadata=STATIC | choice("small", "large", "learned"))

    @property
    def order(self):
        return 1

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        here = denoise(x_t, t)
        mean, variance = forward.posterior(schedule, x_t, here.x0, t, s)
        if self.variance != "small":
            larger = self._larger_variance(here, schedule, x_t, t, s)
            variance = jnp.where(schedule.sigma(s) > 0, larger, 0.0)  # no noise on data
        return mean + safe_sqrt(variance) * standard_normal(keys, x_t.shape[1:]), memory

    def _larger_variance(self, here, schedule, x_t, t, s):
        """The large or the learned variance."""
        if self.variance == "large":
            return forward.transition(schedule, x_t, t, s)[1]
        if here.variance_fraction is None:
            raise ValueError('DDPM variance = "learned": the network must output twice the channels; or use "small"')
        return forward.learned_variance(schedule, here.variance_fraction, t, s)
