"""UniPC: a predictor, and a corrector that costs no call of its own."""

import dataclasses

import jax
import jax.numpy as jnp

from diffusion_jax.sampling.samplers.base import Sampler
from diffusion_jax.sampling.samplers.exponential import Past, lean, transfer, weights
from diffusion_jax.validation import STATIC, choice


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class UniPC(Sampler):
    """UniPC in x0, multistep (Zhao et al. 2023, Alg. 1 and 2): UniP-p leads to s, UniC-p corrects x_s.

    Both are x_s = keep x_t + gain D (see `exponential`). The predictor's D is the average over the step of
    the polynomial through the last p = `order` x0, the corrector's of that through x0 at s too. This one
    comes with the call of the next step, so the correction is made there: one call of the denoiser a step,
    and nothing corrects the last. Where only two x0 are known, the slope weighs B(h)/2 in place of its exact
    integral (their a_1 = 1/2): B = 1 - e^(-h) for the `variant` "bh2", whose UniP-2 is DPM-Solver++(2M), and
    h for "bh1".

    The predictor has order p = `order`, and p + 1 with the corrector (their Thm. 3.1). So it is measured on
    Gaussian data, but only p is promised: for want of history the first step leaves an error h^3, times the
    SNR where it starts. First order and not corrected where a step starts at zero SNR or ends on data:
    there h is infinite.
    """

    order: int = dataclasses.field(default=2, metadata=STATIC | choice(1, 2, 3))
    variant: str = dataclasses.field(default="bh2", metadata=STATIC | choice("bh1", "bh2"))

    def init(self, x):
        return Past.nothing(x, self.order)

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        x0 = denoise(x_t, t).x0
        here, there = schedule.log_snr(t) / 2, schedule.log_snr(s) / 2
        x_t = x_t + self._correction(memory, schedule.alpha(t), x0, here)
        memory = memory.then(x0, here)
        direction = x0 + lean(memory.values[1:], self._weights(memory.places[1:], here, there), x0)
        return transfer(schedule, t, s)(x_t, direction), memory

    def _correction(self, past, alpha, x0, here):
        """What the corrector's step from the time before leads to beyond the predictor's.

        To add it needs no copy of the state before, and x_t may have been changed since (inpainting).
        """
        start = past.places[0]
        h = jnp.maximum(here - start, 0.0)  # where there was no step before, start is +inf
        predicted = self._weights(past.places[1:], start, here)
        corrected = self._weights(jnp.append(past.places[1:], here), start, here)
        change = corrected - jnp.append(predicted, 0.0)
        gain = -alpha * jnp.expm1(-h)
        return gain * lean((*past.values[1:], x0), change, past.values[0])

    def _weights(self, places, start, stop):
        """Those of `weights`, or a_1 = 1/2 where only one value is known beside that at `start`."""
        half = weights(places, start, stop, 0.0)
        if self.variant == "bh1":
            h = jnp.where(jnp.isfinite(stop - start), stop - start, 1.0)
            half = half * h / -jnp.expm1(-h)
        return jnp.where(jnp.isfinite(places).sum() == 1, half, weights(places, start, stop, 1.0))
