"""Samplers: one reverse step from time t to time s < t, with the whole algorithm on one screen.

A sampler is a frozen dataclass with a declared `order` (of its global error, checked by the tests)
and `step(keys, denoise, schedule, x_t, t, s, memory) -> (x_s, memory)`. It receives the denoiser, so that
it may call it twice; `keys` holds one key a picture, [B]; `memory` is what a multistep method carries
from step to step, made by `init`. Its float fields, and those of a sampler that it holds, are traced
under jit, the others static.

To add one, subclass `Sampler`; `sample` holds the only loop.
"""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from diffusion_jax.arguments import one_number
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling.denoiser import Denoise


def _flatten(sampler: "Sampler") -> tuple[tuple, tuple]:
    fields = dataclasses.fields(sampler)
    traced = tuple(field.name for field in fields if _is_traced(field.type))
    static = tuple((f.name, getattr(sampler, f.name)) for f in fields if f.name not in traced)
    return tuple(getattr(sampler, name) for name in traced), (traced, static)


def _is_traced(kind: Any) -> bool:
    return kind in (float, "float", "Sampler") or (isinstance(kind, type) and issubclass(kind, Sampler))


def _unflatten(cls: type, names: tuple, leaves: tuple) -> "Sampler":
    sampler: Sampler = object.__new__(cls)
    for name, value in [*zip(names[0], leaves, strict=True), *names[1]]:
        object.__setattr__(sampler, name, value)
    return sampler


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Base of the samplers.

    A subclass is a pytree: fields typed `float` are leaves, those typed as samplers subtrees, the rest is
    static.
    """

    order: ClassVar[int]
    adaptive: ClassVar[bool] = False  # chooses steps of its own between t and s

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        jax.tree_util.register_pytree_node(cls, _flatten, lambda *parts: _unflatten(cls, *parts))

    def init(self, x: jax.Array) -> Any:
        """What the first step finds in `memory`."""
        return ()

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
        """x_s from x_t, [B, H, W, C] each, for scalar times s < t; at s = 0 that is clean data."""
        raise NotImplementedError


def check_number(sampler: Sampler, name: str, low: float, high: float = math.inf) -> None:
    """Makes the field a float in [low, high], but where jit traces it. Raises ValueError for another."""
    object.__setattr__(sampler, name, one_number(name, getattr(sampler, name), low, high))


def check_eta(sampler: Sampler) -> None:
    """Makes eta a float in [0, 1], but where jit traces it."""
    check_number(sampler, "eta", 0, 1)


def nearest(schedule: Schedule, t: ArrayLike) -> ArrayLike:
    """The time nearest to t that a network of this schedule is trained on."""
    return t if schedule.steps is None else schedule.round(t - 0.5 / schedule.steps)


def noise(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal noise [B, *shape], float32: picture i from keys[i] alone."""
    return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)
