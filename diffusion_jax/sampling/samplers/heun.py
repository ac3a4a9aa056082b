"""Heun's rule on the probability flow."""

import dataclasses
from typing import ClassVar

import jax

from diffusion_jax.sampling.samplers.base import Sampler


@dataclasses.dataclass(frozen=True)
class Heun(Sampler):
    """The trapezoidal rule on dx = x0 d(alpha) + eps d(sigma) (Karras et al. 2022, Alg. 1).

    Where alpha = 1 that is EDM's, on a rectified flow Heun's on the velocity, and it divides by neither
    alpha nor sigma. Two calls of the denoiser a step, one in the step to data.
    """

    order: ClassVar[int] = 2

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        d_alpha = schedule.alpha(s) - schedule.alpha(t)
        d_sigma = schedule.sigma(s) - schedule.sigma(t)
        here = denoise(x_t, t)
        euler = x_t + d_alpha * here.x0 + d_sigma * here.eps

        def corrected() -> jax.Array:
            there = denoise(euler, s)
            x0, eps = (here.x0 + there.x0) / 2, (here.eps + there.eps) / 2
            return x_t + d_alpha * x0 + d_sigma * eps

        # At sigma = 0 there is no eps to ask for; x0-hat itself is the answer.
        end = schedule.alpha(s) * here.x0
        return jax.lax.cond(schedule.sigma(s) > 0, corrected, lambda: end), memory
