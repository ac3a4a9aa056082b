"""UniPC: a predictor, and a corrector that needs no extra call of the denoiser."""

import dataclasses

import jax.numpy as jnp

from diffusion_jax.pytrees import register_dataclass
from diffusion_jax.sampling.samplers.base import Sampler
from diffusion_jax.sampling.samplers.exponential import History, exact_step, weighted_difference, weights
from diffusion_jax.validation import STATIC, choice

__all__ = ["UniPC"]


@register_dataclass
@dataclasses.dataclass(frozen=True)
class UniPC(Sampler):
    """UniPC in x0, multistep (Zhao et al. 2023, Alg. 1 and 2): UniP-p leads to s, UniC-p corrects x_s.

    Both are x_s = keep x_t + gain D (see `exponential`). The predictor's D is the average over the step of the
    polynomial through the last p = `order` x0, the corrector's D is the average of the polynomial through x0 at s
    too. The x0 at s comes with the call of the next step, so the correction is made there: one call of the denoiser
    per step, and the last step is not corrected.

    The predictor has order p = `order`, and p + 1 with the corrector (their Thm. 3.1). This is measured on Gaussian
    data, but only p is declared: because there is no history yet, the first step leaves an error h^3, times the SNR
    where it starts. Steps that start at zero SNR or end on data are of first order and not corrected, because h is
    infinite there.

    Attributes:
      order: number of values of x0 in the predictor's polynomial: 1, 2 or 3.
      variant: the weight of the slope where only two x0 are known, B(h)/2 instead of its exact integral (their
        a_1 = 1/2): B = 1 - e^(-h) for "bh2", whose UniP-2 is DPM-Solver++(2M), and B = h for "bh1".

    >>> dj.samplers.UniPC(order=3).order
    3
    """

    order: int = dataclasses.field(default=2, metadata=STATIC | choice(1, 2, 3))
    variant: str = dataclasses.field(default="bh2", metadata=STATIC | choice("bh1", "bh2"))

    def init(self, x):
        return History.empty(x, self.order)

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        x0 = denoise(x_t, t).x0
        here, there = schedule.log_snr(t) / 2, schedule.log_snr(s) / 2
        x_t = x_t + self._correction(memory, schedule.alpha(t), x0, here)
        memory = memory.push(x0, here)
        slopes = self._weights(memory.places[1:], here, there)
        direction = x0 + weighted_difference(memory.values[1:], slopes, x0)
        return exact_step(schedule, t, s).mean(x_t, direction), memory

    def _correction(self, past, alpha, x0, here):
        """The difference between the corrector's and the predictor's result of the previous step.

        Adding it needs no copy of the earlier state, and x_t may have been changed since (inpainting).
        """
        start = past.places[0]
        h = jnp.maximum(here - start, 0.0)  # before the first step start is +inf
        predicted = self._weights(past.places[1:], start, here)
        corrected = self._weights(jnp.append(past.places[1:], here), start, here)
        change = corrected - jnp.append(predicted, 0.0)
        gain = -alpha * jnp.expm1(-h)
        return gain * weighted_difference((*past.values[1:], x0), change, past.values[0])

    def _weights(self, places, start, stop):
        """The exact `weights`, or a_1 = 1/2 where only one value is known besides the value at `start`."""
        half = weights(places, start, stop, 0.0)
        if self.variant == "bh1":
            h = jnp.where(jnp.isfinite(stop - start), stop - start, 1.0)
            half = half * h / -jnp.expm1(-h)
        return jnp.where(jnp.isfinite(places).sum() == 1, half, weights(places, start, stop, 1.0))
