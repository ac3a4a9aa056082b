"""Sampling with networks that are shown their own last guess."""

import dataclasses

import jax.numpy as jnp

from diffusion_jax.sampling.samplers.base import Sampler
from diffusion_jax.sampling.samplers.ddim import DDIM


@dataclasses.dataclass(frozen=True)
class SelfConditioned(Sampler):
    """`sampler` for a network that is given its x0 of the step before as `x0_hat` (Chen et al. 2023, Alg. 2).

    The first step is given zeros. What a sampler asks later in its step (Heun, Midpoint) is given the x0 of
    the step's first call. As many calls as `sampler` makes; one more where it does not begin by asking at
    (x_t, t) itself (Heun with churn, RK45).
    """

    sampler: Sampler = DDIM()

    def __post_init__(self):
        if not isinstance(self.sampler, Sampler) or isinstance(self.sampler, SelfConditioned):
            raise ValueError(f"sampler = {self.sampler!r}: must be another sampler, such as DDIM()")

    @property
    def order(self) -> int:  # type: ignore[override]  # that of the sampler inside
        return self.sampler.order

    @property
    def adaptive(self) -> bool:  # type: ignore[override]
        return self.sampler.adaptive

    def init(self, x):
        return jnp.zeros_like(x), self.sampler.init(x)

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        guess, inside = memory
        first = denoise(x_t, t, x0_hat=guess)

        def conditioned(x, time, **given):
            if x is x_t and time is t:
                return first
            return denoise(x, time, x0_hat=first.x0, **given)

        x_s, inside = self.sampler.step(keys, conditioned, schedule, x_t, t, s, inside)
        return x_s, (first.x0, inside)
