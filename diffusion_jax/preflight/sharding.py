"""How the training state is spread over the devices."""

import dataclasses
import math
from typing import Any

import jax
from jax.sharding import Mesh

__all__ = ["Leaf", "Part", "Shards", "list_shards"]


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One array of the state: its size, and the axis of the mesh that splits each dimension ("" for none)."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    split: tuple[str, ...]
    size: int
    size_per_device: int


@dataclasses.dataclass(frozen=True)
class Part:
    """A field of the state: number of arrays, how many of them are split, bytes in all and per device."""

    name: str
    arrays: int
    split: int
    size: int
    size_per_device: int


@dataclasses.dataclass(frozen=True)
class Shards:
    """The state on one mesh.

    Attributes:
      mesh: devices along the axes "data" and "fsdp".
      leaves: every array.
    """

    mesh: dict[str, int]
    leaves: tuple[Leaf, ...]

    @property
    def parts(self) -> list[Part]:
        """The arrays by field of the state, in its order."""
        names = dict.fromkeys(leaf.name.partition("/")[0] for leaf in self.leaves)
        return [_add(name, [leaf for leaf in self.leaves if leaf.name.partition("/")[0] == name]) for name in names]

    @property
    def total(self) -> Part:
        return _add("state", list(self.leaves))


def list_shards(mesh: Mesh, state: Any) -> Shards:
    """The arrays of a state, or their shapes with shardings, on `mesh`."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    return Shards(dict(mesh.shape), tuple(_describe(name, leaf) for name, (_, leaf) in zip(names, leaves, strict=True)))


def _describe(name: str, leaf: Any) -> Leaf:
    spec = (*leaf.sharding.spec, *[None] * leaf.ndim)[: leaf.ndim]
    sizes = (math.prod(shape) * leaf.dtype.itemsize for shape in (leaf.shape, leaf.sharding.shard_shape(leaf.shape)))
    return Leaf(name, tuple(leaf.shape), str(leaf.dtype), tuple(axis or "" for axis in spec), *sizes)


def _add(name: str, leaves: list[Leaf]) -> Part:
    split = sum(any(leaf.split) for leaf in leaves)
    return Part(name, len(leaves), split, sum(x.size for x in leaves), sum(x.size_per_device for x in leaves))
