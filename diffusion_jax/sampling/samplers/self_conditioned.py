"""Sampling from networks that are conditioned on their own previous estimate."""

import dataclasses

import jax
import jax.numpy as jnp

from diffusion_jax.process.forward import expand
from diffusion_jax.process.predictions import Denoised
from diffusion_jax.pytrees import register_dataclass
from diffusion_jax.sampling.samplers.base import Sampler
from diffusion_jax.sampling.samplers.ddim import DDIM
from diffusion_jax.validation import instance

__all__ = ["SelfConditioned"]


@register_dataclass
@dataclasses.dataclass(frozen=True)
class SelfConditioned(Sampler):
    """`sampler` for a network that receives its previous x0 as `x0_hat` (Chen et al. 2023, Alg. 2).

    The network's estimate at the start (x_t, t) of a step receives the x0 of the previous step's start, zeros in
    the first step. Calls elsewhere within the step (Heun, Midpoint) receive the x0 of this step's start. The cost
    is the cost of `sampler`, plus one call per step if it never asks at (x_t, t) (Heun with churn, RK45).

    Attributes:
      sampler: the sampler inside, which is not itself self-conditioned.

    >>> dj.samplers.SelfConditioned(dj.samplers.Heun()).order
    2
    """

    sampler: Sampler = dataclasses.field(default=DDIM(), metadata=instance(Sampler, "DDIM()"))

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.sampler, SelfConditioned):
            raise ValueError(f"sampler = {self.sampler!r}: must not be SelfConditioned; use the sampler inside it")

    @property
    def order(self):
        return self.sampler.order

    @property
    def adaptive(self):
        return self.sampler.adaptive

    def init(self, x):
        return jnp.zeros_like(x), self.sampler.init(x)

    def step(self, keys, denoise, schedule, x_t, t, s, memory):
        previous_x0, memory = memory
        first = denoise(x_t, t, x0_hat=previous_x0)

        def conditioned(x: jax.Array, time: jax.Array, **kwargs: jax.Array) -> Denoised:
            # The first two cases give the same answer as the general one, with less to compile.
            if x is x_t and time is t:
                return first
            if time is s:
                return denoise(x, time, x0_hat=first.x0, **kwargs)
            # Per image, so that no image depends on whether the others have moved.
            at_start = (time == t) & jnp.all(x == x_t, axis=tuple(range(1, x.ndim)))

            def ask() -> Denoised:
                here = denoise(x, time, x0_hat=first.x0, **kwargs)
                return jax.tree.map(lambda old, new: jnp.where(expand(at_start, old), old, new), first, here)

            return jax.lax.cond(jnp.all(at_start), lambda: first, ask)

        x_s, memory = self.sampler.step(keys, conditioned, schedule, x_t, t, s, memory)
        return x_s, (first.x0, memory)
