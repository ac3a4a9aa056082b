"""The sampler interface: one reverse step from time t to time s < t.

A sampler is a frozen dataclass, registered as a pytree, with a declared `order` (of its global error, measured
by the tests) and `step(keys, denoise, schedule, x_t, t, s, memory) -> (x_s, memory)`. It receives the denoiser,
so that it may call it more than once; `keys` holds one key per image, [B]; `memory` is the state that a
multistep method carries from step to step, made by `init`.

The fields are traced under jit, except those marked static in their metadata:

    @dj.register_dataclass
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
from diffusion_jax.pytrees import is_registered
from diffusion_jax.sampling.denoiser import Denoise
from diffusion_jax.validation import Checked, check_fields, check_instance, describe

_DECORATORS = "@dj.register_dataclass above @dataclasses.dataclass(frozen=True)"
_MARK_STATIC = "mark a field that is not a number static: dataclasses.field(..., metadata=dict(static=True))"

__all__ = ["Sampler", "check_sampler", "nearest_time"]


@dataclasses.dataclass(frozen=True)
class Sampler(Checked, abc.ABC):
    """Base of the samplers.

    The fields are checked when an object is made. Arrays and tracers are exempt, because JAX calls the constructor
    with gradients, stacked numbers or placeholders to rebuild a pytree; `sample` checks them.

    >>> @dj.register_dataclass
    ... @dataclasses.dataclass(frozen=True)
    ... class Relaxation(dj.samplers.Sampler):
    ...     rate: float = 0.5
    ...     order = 1
    ...
    ...     def step(self, keys, denoise, schedule, x_t, t, s, memory):
    ...         return x_t + self.rate * (denoise(x_t, t).x0 - x_t), memory
    >>> jax.tree.leaves(Relaxation(0.3))
    [0.3]
    """

    def __post_init__(self):
        check_fields(self, _is_rebuilt)

    @property
    @abc.abstractmethod
    def order(self) -> int:
        """Order of the global error in the step size, for smooth data."""

    @property
    def adaptive(self) -> bool:
        """Whether the sampler chooses smaller steps of its own between t and s."""
        return False

    def init(self, x: jax.Array) -> Any:
        """Returns the `memory` of the first step."""
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
        """Returns x_s from x_t, [B, H, W, C] each, for scalar times s < t; at s = 0 x_s is clean data."""


def check_sampler(sampler: Any) -> None:
    """Raises ValueError unless `sampler` is a registered sampler whose traced fields are single, valid numbers."""
    check_instance("sampler", sampler, Sampler, "DDIM()")
    _check_registered(sampler)
    for path, leaf in jax.tree_util.tree_leaves_with_path(sampler):
        _check_leaf(f"sampler{jax.tree_util.keystr(path)}", leaf)
    _check_values(sampler)


def nearest_time(schedule: Schedule, t: ArrayLike) -> ArrayLike:
    """Returns the time nearest to t that a network of this schedule is trained on."""
    return t if schedule.steps is None else schedule.round(t - 0.5 / schedule.steps)


def _is_rebuilt(value: Any) -> bool:
    """Whether JAX may have put `value` in the place of a field: arrays, tracers, shapes, shardings and the like."""
    shapes = (jax.ShapeDtypeStruct, jax.stages.ArgInfo, jax.sharding.Sharding, jax.sharding.PartitionSpec)
    return type(value) is object or isinstance(value, (jax.Array, np.ndarray, *shapes))


def _check_registered(sampler: Sampler) -> None:
    """Checks the class of the sampler and of those inside."""
    if not is_registered(type(sampler)):
        raise ValueError(f"sampler = {describe(sampler)}: must be a registered pytree; put {_DECORATORS} of its class")
    for field in dataclasses.fields(sampler):
        for inner in jax.tree.leaves(getattr(sampler, field.name), is_leaf=lambda value: isinstance(value, Sampler)):
            if isinstance(inner, Sampler):
                _check_registered(inner)


def _check_leaf(name: str, leaf: Any) -> None:
    if not isinstance(leaf, int | float) and not hasattr(leaf, "dtype"):
        raise ValueError(f"{name} = {describe(leaf)}: must be a number, which jit traces; {_MARK_STATIC}")
    if np.ndim(leaf):
        raise ValueError(f"{name} has shape {np.shape(leaf)}: must be one number")


def _check_values(sampler: Sampler) -> None:
    """Checks the arrays that the constructor has let pass, also those of a sampler inside."""
    for field in dataclasses.fields(sampler):
        value = getattr(sampler, field.name)
        if isinstance(value, Sampler):
            _check_values(value)
        elif isinstance(value, jax.Array | np.ndarray) and "check" in field.metadata:
            field.metadata["check"](field.name, value)
