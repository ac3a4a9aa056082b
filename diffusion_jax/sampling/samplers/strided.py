"""An incorrect step, kept to reproduce a project that used it."""

import dataclasses

import jax.numpy as jnp

from diffusion_jax.process import forward
from diffusion_jax.process.numerics import safe_sqrt
from diffusion_jax.pytrees import register_dataclass
from diffusion_jax.sampling.randomness import standard_normal
from diffusion_jax.sampling.samplers.base import Sampler
from diffusion_jax.validation import number

__all__ = ["StridedPosterior"]


@register_dataclass
@dataclasses.dataclass(frozen=True)
class StridedPosterior(Sampler):
    """The step of github.com/okarthikb/diffusion, to reproduce that project. Its law is wrong: use `DDIM`.

    x_s = (x_t - b eps/sigma_t)/sqrt(1 - b) + sqrt(eta b) z with b = clip(posterior variance, 0, 0.999).
    DDPM's mean (Ho et al. 2020, Alg. 2) has the forward step's beta, 1 - alpha_t^2/alpha_s^2, in place of the
    posterior variance, and the step to s = 0 has b = 0 and changes nothing. On Gaussian data of standard
    deviation 0.5, a perfect denoiser gives samples of standard deviation 0.026 at eta = 0, 0.177 at 0.1 and 0.554 at
    1. Their settings are T = 500, eta = 0.1, `grids.Leading` with 35 steps, no clipping. For variance preserving
    schedules. One call of the denoiser per step; `order` is 0, because it does not converge to the data.

    Attributes:
      eta: amount of noise.

    >>> dj.samplers.StridedPosterior().order
    0
    """

    eta: float = dataclasses.field(default=0.1, metadata=number("[0, 1]"))

    @property
    def order(self):
        return 0

    def init(self, x):
        return jnp.bool_(True)  # whether the next step is the first

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        # Their code starts at unit variance, whatever the first time is.
        x_t = jnp.where(memory, x_t / schedule.sigma(t), x_t)
        here = denoise(x_t, t)
        b = jnp.clip(forward.posterior(schedule, x_t, here.x0, t, s)[1], 0.0, 0.999)
        mean = (x_t - b / schedule.sigma(t) * here.eps) / jnp.sqrt(1 - b)
        return mean + safe_sqrt(self.eta * b) * standard_normal(keys, x_t.shape[1:]), jnp.bool_(False)
