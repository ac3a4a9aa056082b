"""Euler's method on the probability flow, and its ancestral form."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from diffusion_jax.process import forward
from diffusion_jax.process.numerics import safe_sqrt
from diffusion_jax.process.predictions import Denoised
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.pytrees import register_dataclass
from diffusion_jax.sampling.randomness import standard_normal
from diffusion_jax.sampling.samplers.base import Sampler
from diffusion_jax.validation import number

__all__ = ["Euler", "EulerAncestral", "euler_step"]


def euler_step(
    here: Denoised, x_t: jax.Array, schedule: Schedule, t: ArrayLike, s: ArrayLike, sigma: ArrayLike
) -> jax.Array:
    """Returns x_t + (alpha_s - alpha_t) x0 + (sigma - sigma_t) eps, a straight step to the noise level `sigma`.

    >>> here = Denoised(jnp.full((1, 2), 0.5), jnp.ones((1, 2)))
    >>> euler_step(here, jnp.full((1, 2), 0.75), dj.schedules.RectifiedFlow(), 0.5, 0.0, 0.0).tolist()
    [[0.5, 0.5]]
    """
    return x_t + (schedule.alpha(s) - schedule.alpha(t)) * here.x0 + (sigma - schedule.sigma(t)) * here.eps


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Euler(Sampler):
    """Euler's method on dx = x0 d(alpha) + eps d(sigma).

    x_s = x_t + (alpha_s - alpha_t) x0 + (sigma_s - sigma_t) eps. On `schedules.Karras` this is EDM's step (Karras et
    al. 2022, Alg. 1 without its correction), on a rectified flow the step of flow matching,
    x_t + (s - t)(eps - x0) (Liu et al. 2022, Eq. 1). Since x_t = alpha_t x0 + sigma_t eps, it equals DDIM with
    eta = 0 on every schedule, up to rounding. One call of the denoiser per step; first order.

    >>> dj.samplers.Euler().order
    1
    """

    @property
    def order(self):
        return 1

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        return euler_step(denoise(x_t, t), x_t, schedule, t, s, schedule.sigma(s)), memory


@register_dataclass
@dataclasses.dataclass(frozen=True)
class EulerAncestral(Sampler):
    """Euler's method down to a lower noise level, then fresh noise: k-diffusion's ancestral step.

    sigma_s^2 = sigma_up^2 + sigma_down^2 with sigma_up = min(sigma_s, eta sqrt(var)) and the posterior's
    variance var; Euler's method leads to sigma_down, and sigma_up z is added. Where alpha = 1, var is
    k-diffusion's sigma_s^2 (sigma_t^2 - sigma_s^2)/sigma_t^2; nothing is divided by alpha, which may be 0. One call
    of the denoiser per step; first order.

    Attributes:
      eta: amount of noise. Up to 1 the sampler equals `DDIM(eta)`, and at 1 it has the law of DDPM. Larger values
        replace more of x_s by fresh noise, in the limit all of it: x_s = alpha_s x0 + sigma_s z, the sampling of
        consistency models (Song et al. 2023, Alg. 1).

    >>> dj.samplers.EulerAncestral(eta=0.5).order
    1
    """

    eta: float = dataclasses.field(default=1.0, metadata=number("[0, inf)"))

    @property
    def order(self):
        return 1

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        here = denoise(x_t, t)
        sigma = schedule.sigma(s)
        up = self.eta * safe_sqrt(forward.posterior(schedule, x_t, here.x0, t, s)[1])
        up = jnp.minimum(up, sigma)
        # sigma_s^2 - up^2, which as a difference cancels at eta = 1 near t = 1.
        left = jnp.exp(schedule.log_snr(t) - schedule.log_snr(s))
        down = sigma * safe_sqrt(jnp.maximum((1 - self.eta) * (1 + self.eta) + self.eta**2 * left, 0.0))
        return euler_step(here, x_t, schedule, t, s, down) + up * standard_normal(keys, x_t.shape[1:]), memory
