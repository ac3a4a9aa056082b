"""The sampler interface: one reverse step from time t to time s < t.

A sampler is a frozen dataclass, registered as a pytree, with a declared `order` (of its global error, measured
by the tests) and `step(keys, denoise, schedule, x_t, t, s, memory) -> (x_s, memory)`. It receives the denoiser,
so that it may call it more than once; `keys` holds one key per image, [B]; `memory` is what a multistep method
carries from step to step, made by `init`.

Its fields are traced under jit, except those marked static in their metadata:

    @jax.tree_util.register_dataclass
    @dataclasses.dataclass(frozen=True)
    class Mine(Sampler):
        strength: float = 0.3
        variant: str = dataclasses.field(default="a", metadata=dict(static=True))

To add a sampler, subclass `Sampler`; `sample` holds the only loop.
"""

import abc
import dataclasses
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling.denoiser import Denoise
from diffusion_jax.validation import Checked, check_instance, describe


@dataclasses.dataclass(frozen=True)
class Sampler(Checked, abc.ABC):
    """Base of the samplers."""

    @property
    @abc.abstractmethod
    def order(self) -> int:
        """Order of the global error in the step size, for smooth data."""

    @property
    def adaptive(self) -> bool:
        """Whether the sampler chooses smaller steps of its own between t and s."""
        return False

    def init(self, x: jax.Array) -> Any:
        """The `memory` of the first step."""
        return ()

    @abc.abstractmethod
    def step(
        self,
        keys: jax.Array,
        denoise: Denoise,
        schedule: Schedule,
        x_t: jax.Array,
        t: jax.Array,
        s: jax.Array,
        memory: Any,
    ) -> tuple[jax.Array, Any]:
        """x_s from x_t, [B, H, W, C] each, for scalar times s < t; at s = 0 x_s is clean data."""


def check_sampler(sampler: Any) -> None:
    """Raises ValueError unless `sampler` is a registered sampler whose traced fields are single numbers."""
    check_instance("sampler", sampler, Sampler, "DDIM()")
    name = type(sampler).__name__
    leaves = jax.tree_util.tree_leaves_with_path(sampler)
    if any(leaf is sampler for _, leaf in leaves):
        raise ValueError(
            f"sampler = {describe(sampler)}: must be a pytree; put @jax.tree_util.register_dataclass above "
            f"@dataclasses.dataclass(frozen=True) of {name}"
        )
    for path, leaf in leaves:
        where = f"sampler{jax.tree_util.keystr(path)}"
        if not isinstance(leaf, int | float) and not hasattr(leaf, "dtype"):
            raise ValueError(
                f"{where} = {describe(leaf)}: must be a number, which jit traces; mark other fields static, "
                "dataclasses.field(..., metadata=dict(static=True))"
            )
        if np.ndim(leaf):
            raise ValueError(f"{where} has shape {np.shape(leaf)}: must be one number")


def nearest(schedule: Schedule, t: ArrayLike) -> ArrayLike:
    """The time nearest to t that a network of this schedule is trained on."""
    return t if schedule.steps is None else schedule.round(t - 0.5 / schedule.steps)
