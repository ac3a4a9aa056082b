"""Dataclasses as pytrees that jit tells apart."""

import dataclasses
from collections.abc import Iterable
from typing import Any, TypeVar

from jax.tree_util import GetAttrKey, register_pytree_with_keys

__all__ = ["is_registered", "register_dataclass"]

Class = TypeVar("Class", bound=type)

_registered: set[type] = set()


def register_dataclass(cls: Class) -> Class:
    """Makes a dataclass a pytree of its fields; those with `static=True` in their metadata belong to its structure.

    A decorator, as `jax.tree_util.register_dataclass` is. With that one (jax 0.10.2 to 0.12.0), the structures of two
    classes that have as many fields are equal, with different hashes: a jitted function that is called with both runs,
    for one pair in 128, the program of the first on the second. Here they differ.

    Raises ValueError unless @dataclasses.dataclass stands below, and for a field that the constructor does not take.

    >>> @dj.register_dataclass
    ... @dataclasses.dataclass(frozen=True)
    ... class Scale:
    ...     factor: float
    ...     unit: str = dataclasses.field(default="", metadata=dict(static=True))
    >>> jax.tree.map(lambda x: 2 * x, Scale(1.5, "mm"))
    Scale(factor=3.0, unit='mm')
    """
    if "__dataclass_fields__" not in vars(cls):
        raise ValueError(f"{cls.__name__}: put @dj.register_dataclass above @dataclasses.dataclass(frozen=True)")
    fields = dataclasses.fields(cls)
    if left_out := [field.name for field in fields if not field.init]:
        raise ValueError(f"{cls.__name__}.{left_out[0]}: must be taken by the constructor, which rebuilds the pytree")
    static = tuple(field.name for field in fields if field.metadata.get("static"))
    traced = tuple(field.name for field in fields if not field.metadata.get("static"))

    def flatten(value: Any) -> tuple[tuple, tuple]:
        return tuple(getattr(value, name) for name in traced), tuple(getattr(value, name) for name in static)

    def flatten_with_keys(value: Any) -> tuple[tuple, tuple]:
        children, structure = flatten(value)
        return tuple(zip(map(GetAttrKey, traced), children, strict=True)), structure

    def unflatten(structure: tuple, children: Iterable[Any]) -> Any:
        return cls(**dict(zip(static, structure, strict=True)), **dict(zip(traced, children, strict=True)))

    register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    _registered.add(cls)
    return cls


def is_registered(cls: type) -> bool:
    """Whether `register_dataclass` has registered this very class; a base class does not count."""
    return cls in _registered
