"""DPM-Solver++, multistep and single step, with noise and without."""

import dataclasses

import jax
import jax.numpy as jnp

from diffusion_jax.sampling.randomness import standard_normal
from diffusion_jax.sampling.samplers.base import Sampler, nearest
from diffusion_jax.sampling.samplers.exponential import Past, lean, transfer, weights
from diffusion_jax.validation import STATIC, choice, number


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DPMSolverPP(Sampler):
    """DPM-Solver++ in x0, multistep: 1S, 2M and 3M, and at eta = 1 their SDE forms (Lu et al. 2022b).

    x_s = keep x_t + gain D + spread z (see `exponential`). D is x0 at order 1, which is DDIM, at eta = 1 as
    at 0; x0 + h/(2 h_prev) (x0 - x0_prev) at order 2 (their Alg. 2), with h the step of lambda; and at order
    3 the exact average of the parabola through the last three x0. (The authors' code takes half of its second
    difference, and measures second order.) One call of the denoiser a step.

    `eta` from 0 to 1 leads from the probability flow to the reverse SDE. `order` is that of eta = 0. The
    first steps have a lower one, for want of history: at order 3 their error h^2 stays, times the SNR where
    they start. With eta > 0 the law of the samples is right to second order at order 2 and 3 alike, to first
    at 1: D knows nothing of the noise of its own step, but the next ones make up for it. First order where a
    step starts at zero SNR or ends on data: there h is infinite. Where a step of lambda is much
    longer than the one before (few steps of `grids.Karras` or `grids.Leading`), the parabola of order 3
    overshoots, and order 2 is better.
    """

    order: int = dataclasses.field(default=2, metadata=STATIC | choice(1, 2, 3))
    eta: float = dataclasses.field(default=0.0, metadata=number("[0, 1]"))

    def init(self, x):
        return Past.nothing(x, self.order - 1)

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        x0 = denoise(x_t, t).x0
        here, there = schedule.log_snr(t) / 2, schedule.log_snr(s) / 2
        rate = 1 + self.eta if self.order == 3 else 0.0  # the 2 of h/(2 h_prev) is that of a flat density
        direction = x0 + lean(memory.values, weights(memory.places, here, there, rate), x0)
        whole = transfer(schedule, t, s, self.eta)
        drawn = whole.spread * _drawn(self.eta, keys, x_t.shape[1:])
        return whole(x_t, direction) + drawn, memory.then(x0, here)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DPMSolverPP2S(Sampler):
    """DPM-Solver++ in x0, single step of second order (Lu et al. 2022b, Alg. 1), and its SDE form.

    A step of first order leads to a middle, a fraction r of h from t; then D = x0 + (x0_mid - x0)/(2 r). The
    middle is that of lambda; a discrete schedule is asked at the nearest time of its table, or at s if that
    is t. Two calls of the denoiser a step; one, and first order, where h is infinite: from zero SNR, to data.

    With eta > 0 the noise of the first part is part of the whole step's, as in one Wiener process. So D knows
    of it, and the law of the samples is right to second order.
    """

    eta: float = dataclasses.field(default=0.0, metadata=number("[0, 1]"))

    @property
    def order(self):
        return 2

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        x0 = denoise(x_t, t).x0
        log_snr = schedule.log_snr(t)
        h = (schedule.log_snr(s) - log_snr) / 2
        middle = nearest(schedule, schedule.time(jnp.where(jnp.isfinite(h), log_snr + h, 0.0)))
        middle = jnp.where((s < middle) & (middle < t), middle, s)

        whole = transfer(schedule, t, s, self.eta)

        def one_call() -> jax.Array:
            return whole(x_t, x0) + whole.spread * _drawn(self.eta, keys, x_t.shape[1:])

        def two_calls() -> jax.Array:
            pairs = jax.vmap(jax.random.split)(keys)
            first, second = transfer(schedule, t, middle, self.eta), transfer(schedule, middle, s, self.eta)
            drawn = first.spread * _drawn(self.eta, pairs[:, 0], x_t.shape[1:])
            there = denoise(first(x_t, x0) + drawn, middle).x0
            twice_r = (schedule.log_snr(middle) - log_snr) / h
            drawn = second.keep * drawn + second.spread * _drawn(self.eta, pairs[:, 1], x_t.shape[1:])
            return whole(x_t, x0 + (there - x0) / twice_r) + drawn

        return jax.lax.cond(jnp.isfinite(h), two_calls, one_call), memory


def _drawn(eta: float, keys: jax.Array, shape: tuple[int, ...]) -> jax.Array | float:
    """Standard normal noise [B, *shape]; none is drawn where jit does not trace eta and it is 0."""
    return 0.0 if isinstance(eta, float) and eta == 0 else standard_normal(keys, shape)
