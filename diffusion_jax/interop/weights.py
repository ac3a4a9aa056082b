"""From tensors by their names, in PyTorch's layouts, to the parameters of one of our networks."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.interop.torch_pickle import InteropError, shown

Tensors = Mapping[str, np.ndarray]

_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}


def params_of(
    tensors: Tensors,
    model: Any,
    image_shape: tuple[int, int, int],
    layer_of: Callable[[list[str]], str],
    kernel_of: Callable[[list[str], np.ndarray, int], np.ndarray],
) -> dict[str, Any]:
    """The parameters of `model`, each from the tensor that holds it, in that tensor's dtype.

    `layer_of` gives the name of their layer for the path of ours, ["down0_block0", "conv1"]; `kernel_of`
    turns a weight of theirs into our kernel of so many dimensions. Raises InteropError naming a tensor that
    is missing, left over, of another shape, no floating point or not finite.
    """
    taken = set()

    def leaf(path: tuple, wanted: jax.ShapeDtypeStruct) -> np.ndarray:
        _, *layer, kind = (key.key for key in path)
        name = f"{layer_of(layer)}.{_LEAVES[kind]}"
        taken.add(name)
        found = _sound(tensors, name)
        try:
            ours = _part(layer, found)
            ours = kernel_of(layer, ours, len(wanted.shape)) if kind == "kernel" else ours
        except ValueError:  # from numpy: not even the number of dimensions is right
            ours = found
        if ours.shape != wanted.shape:
            path_of_ours = "/".join([*layer, kind])
            raise InteropError(
                f"tensor {name} has shape {found.shape}, which does not fit {path_of_ours} {wanted.shape}"
            )
        return ours

    params = jax.tree_util.tree_map_with_path(leaf, _abstract_params(model, image_shape))
    if left := sorted(tensors.keys() - taken):
        raise InteropError(f"tensor {shown(left[0])} has no place in the network")
    return params


def _abstract_params(model: Any, image_shape: tuple[int, int, int]) -> Any:
    x = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    time, labels = jax.ShapeDtypeStruct((1,), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)
    return jax.eval_shape(model.init, jax.random.key(0), x, time, labels)


def _sound(tensors: Tensors, name: str) -> np.ndarray:
    found = tensors.get(name)
    if not isinstance(found, np.ndarray):
        raise InteropError(f"tensor {name} is missing")
    if not jnp.issubdtype(found.dtype, jnp.floating):
        raise InteropError(f"tensor {name} is {found.dtype}, not floating point")
    with np.errstate(over="ignore"):
        if not np.isfinite(found.astype(np.float32)).all():
            raise InteropError(f"tensor {name} has values that are not finite in float32")
    return found


def _part(layer: list[str], found: np.ndarray) -> np.ndarray:
    """q, k and v are one layer of theirs, one behind another; anything else is whole."""
    return np.split(found, 3)["qkv".index(layer[-1])] if layer[-1] in ("q", "k", "v") else found


def kernel(weight: np.ndarray, ndim: int) -> np.ndarray:
    """A linear layer's (out, in) as (in, out); a convolution's (out, in, h, w) as (h, w, in, out), or as
    (in, out) where it is 1x1 and `ndim` 2. Raises ValueError where the weight is no such thing.
    """
    if ndim == 2:
        return weight.reshape(weight.shape[:2]).T
    return weight.transpose(2, 3, 1, 0)


def shape_of(tensors: Tensors, name: str, ndim: int) -> tuple[int, ...]:
    """The shape of a tensor from which a setting is read off. Raises InteropError where it has not `ndim`."""
    found = tensors.get(name)
    if not isinstance(found, np.ndarray) or found.ndim != ndim or not found.size:
        shape = f"has shape {found.shape}" if isinstance(found, np.ndarray) else "is missing"
        raise InteropError(f"tensor {name} {shape}; a network has {ndim} dimensions there")
    return found.shape


def count(tensors: Tensors, prefix: str) -> int:
    """How many of prefix0, prefix1, ... begin the name of a tensor, without a gap."""
    found = {name.removeprefix(prefix).split(".")[0] for name in tensors if name.startswith(prefix)}
    return next(number for number in itertools.count() if str(number) not in found)
