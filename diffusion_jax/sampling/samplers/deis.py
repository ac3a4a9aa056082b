"""DEIS: Adams and Bashforth's rule on eps."""

import dataclasses

import jax
import jax.numpy as jnp

from diffusion_jax.sampling.samplers.base import Sampler
from diffusion_jax.sampling.samplers.exponential import Past, lean, weights
from diffusion_jax.validation import STATIC, choice


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DEIS(Sampler):
    """DEIS, multistep, on d(x_t/alpha_t) = eps d(nsr), nsr = sigma/alpha (Zhang and Chen 2023, Prop. 3).

    x_s = alpha_s x0 + sigma_s eps + (sigma_s - alpha_s nsr_t) (D - eps): DDIM, and what the average D of eps
    over the step has beyond eps. It is that of the polynomial in lambda = -log(nsr) through the last `order`
    eps, exact. In nsr itself, whose steps shrink from 80 to 0.002, it would be several times less accurate.
    One call of the denoiser a step.

    The first steps have a lower order, for want of history: at order 3 their error h^2 stays, times the SNR
    where they start, with h the step of lambda. First order where a step starts at zero SNR or ends on data:
    there h is infinite.
    """

    order: int = dataclasses.field(default=2, metadata=STATIC | choice(2, 3))  # order 1 is DDIM

    def init(self, x):
        return Past.nothing(x, self.order - 1)

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        denoised = denoise(x_t, t)
        x0, eps = denoised.x0, denoised.eps
        here, there = schedule.log_snr(t) / 2, schedule.log_snr(s) / 2
        beyond = lean(memory.values, weights(memory.places, here, there, -1.0), eps)
        alpha, sigma = schedule.alpha(s), schedule.sigma(s)
        # At zero SNR the ratio has no end, and nothing is beyond eps.
        gain = sigma - alpha * jnp.where(jnp.isfinite(here), jnp.exp(-here), 0.0)
        return alpha * x0 + sigma * eps + gain * beyond, memory.then(eps, here)
