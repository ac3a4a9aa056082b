"""DEIS: the Adams-Bashforth method on eps."""

import dataclasses

import jax.numpy as jnp

from diffusion_jax.pytrees import register_dataclass
from diffusion_jax.sampling.samplers.base import Sampler
from diffusion_jax.sampling.samplers.exponential import History, weighted_difference, weights
from diffusion_jax.validation import STATIC, choice

__all__ = ["DEIS"]


@register_dataclass
@dataclasses.dataclass(frozen=True)
class DEIS(Sampler):
    """DEIS, multistep, on d(x_t/alpha_t) = eps d(nsr), nsr = sigma/alpha (Zhang and Chen 2023, Prop. 3).

    x_s = alpha_s x0 + sigma_s eps + (sigma_s - alpha_s nsr_t) (D - eps): DDIM plus a correction for the change of eps
    over the step. D is the exact average of the polynomial in lambda = -log(nsr) through the last `order` values of
    eps. In nsr itself, whose steps shrink from 80 to 0.002, it would be several times less accurate. One call of the
    denoiser per step.

    The first steps have lower order because there is no history yet: at order 3 their error h^2 remains, times the
    SNR where they start, with h the step of lambda. Steps that start at zero SNR or end on data are of first order,
    because h is infinite there.

    Attributes:
      order: number of values of eps in the polynomial, 2 or 3. Order 1 is `DDIM`.

    >>> dj.samplers.DEIS(order=3).order
    3
    """

    order: int = dataclasses.field(default=2, metadata=STATIC | choice(2, 3))

    def init(self, x):
        return History.empty(x, self.order - 1)

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        denoised = denoise(x_t, t)
        x0, eps = denoised.x0, denoised.eps
        here, there = schedule.log_snr(t) / 2, schedule.log_snr(s) / 2
        change = weighted_difference(memory.values, weights(memory.places, here, there, -1.0), eps)
        alpha, sigma = schedule.alpha(s), schedule.sigma(s)
        # At zero SNR the ratio is infinite, and the correction is 0.
        gain = sigma - alpha * jnp.where(jnp.isfinite(here), jnp.exp(-here), 0.0)
        return alpha * x0 + sigma * eps + gain * change, memory.push(eps, here)
