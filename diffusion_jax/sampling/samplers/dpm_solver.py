"""DPM-Solver++, multistep and single step, deterministic and stochastic."""

import dataclasses

import jax
import jax.numpy as jnp

from diffusion_jax.pytrees import register_dataclass
from diffusion_jax.sampling.randomness import standard_normal
from diffusion_jax.sampling.samplers.base import Sampler, nearest_time
from diffusion_jax.sampling.samplers.exponential import History, exact_step, weighted_difference, weights
from diffusion_jax.validation import STATIC, choice, number

__all__ = ["DPMSolverPP", "DPMSolverPP2S"]


@register_dataclass
@dataclasses.dataclass(frozen=True)
class DPMSolverPP(Sampler):
    """DPM-Solver++ in x0, multistep: 1S, 2M and 3M, and at eta = 1 their SDE forms (Lu et al. 2022b).

    x_s = keep x_t + gain D + spread z (see `exponential`), with h the step of lambda and D

    - at order 1: x0, which is DDIM, both at eta = 1 and at 0;
    - at order 2: x0 + h/(2 h_prev) (x0 - x0_prev) (their Alg. 2);
    - at order 3: the exact average of the parabola through the last three x0. (The authors' code takes half of its
      second difference, and measures second order.)

    One call of the denoiser per step. The first steps have lower order because there is no history yet: at order 3
    their error h^2 remains, times the SNR where they start. Steps that start at zero SNR or end on data are of first
    order, because h is infinite there. Where a step of lambda is much longer than the previous one (few steps of
    `grids.Karras` or `grids.Leading`), the parabola of order 3 overshoots, and order 2 is better.

    With eta > 0 the law of the samples is right to second order at both order 2 and 3, to first at order 1: D does
    not depend on the noise of its own step, but the next steps compensate for it.

    Attributes:
      order: number of values of x0 in the polynomial: 1, 2 or 3; the order of the error at `eta` = 0.
      eta: 0 follows the probability flow, 1 the reverse SDE.

    >>> dj.samplers.DPMSolverPP(order=3).order
    3
    """

    order: int = dataclasses.field(default=2, metadata=STATIC | choice(1, 2, 3))
    eta: float = dataclasses.field(default=0.0, metadata=number("[0, 1]"))

    def init(self, x):
        return History.empty(x, self.order - 1)

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        x0 = denoise(x_t, t).x0
        here, there = schedule.log_snr(t) / 2, schedule.log_snr(s) / 2
        rate = 1 + self.eta if self.order == 3 else 0.0  # a flat density gives the 2 of h/(2 h_prev)
        direction = x0 + weighted_difference(memory.values, weights(memory.places, here, there, rate), x0)
        whole = exact_step(schedule, t, s, self.eta)
        noise = whole.spread * _step_noise(self.eta, keys, x_t.shape[1:])
        return whole.mean(x_t, direction) + noise, memory.push(x0, here)


@register_dataclass
@dataclasses.dataclass(frozen=True)
class DPMSolverPP2S(Sampler):
    """DPM-Solver++ in x0, single step of second order (Lu et al. 2022b, Alg. 1), and its SDE form.

    A step of first order leads to a middle time, a fraction r of h from t; then D = x0 + (x0_mid - x0)/(2 r). The
    middle is halfway in lambda; a discrete schedule uses the nearest time of its table, or s if that is t. Two calls
    of the denoiser per step; one call and first order where h is infinite (from zero SNR, or to data).

    With eta > 0 the noise of the first part is a part of the whole step's noise, as in one Wiener process. So D
    depends on it, and the law of the samples is right to second order.

    Attributes:
      eta: 0 follows the probability flow, 1 the reverse SDE.

    >>> dj.samplers.DPMSolverPP2S().order
    2
    """

    eta: float = dataclasses.field(default=0.0, metadata=number("[0, 1]"))

    @property
    def order(self):
        return 2

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        x0 = denoise(x_t, t).x0
        log_snr = schedule.log_snr(t)
        h = (schedule.log_snr(s) - log_snr) / 2
        middle = nearest_time(schedule, schedule.time(jnp.where(jnp.isfinite(h), log_snr + h, 0.0)))
        middle = jnp.where((s < middle) & (middle < t), middle, s)

        whole = exact_step(schedule, t, s, self.eta)

        def one_call() -> jax.Array:
            return whole.mean(x_t, x0) + whole.spread * _step_noise(self.eta, keys, x_t.shape[1:])

        def two_calls() -> jax.Array:
            pairs = jax.vmap(jax.random.split)(keys)
            first, second = exact_step(schedule, t, middle, self.eta), exact_step(schedule, middle, s, self.eta)
            noise = first.spread * _step_noise(self.eta, pairs[:, 0], x_t.shape[1:])
            there = denoise(first.mean(x_t, x0) + noise, middle).x0
            twice_r = (schedule.log_snr(middle) - log_snr) / h
            noise = second.keep * noise + second.spread * _step_noise(self.eta, pairs[:, 1], x_t.shape[1:])
            return whole.mean(x_t, x0 + (there - x0) / twice_r) + noise

        return jax.lax.cond(jnp.isfinite(h), two_calls, one_call), memory


def _step_noise(eta: float, keys: jax.Array, shape: tuple[int, ...]) -> jax.Array | float:
    """Standard normal noise [B, *shape]; not generated if eta is the number 0 rather than traced."""
    return 0.0 if isinstance(eta, float) and eta == 0 else standard_normal(keys, shape)
