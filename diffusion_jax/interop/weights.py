"""Tensors by name, in PyTorch's layouts: their shapes, values and kernels."""

import itertools
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from diffusion_jax.interop.error import InteropError

Tensors = Mapping[str, np.ndarray]


def find_tensor(tensors: Tensors, name: str) -> np.ndarray:
    """Returns a tensor. Raises InteropError unless it is there, of floating point and finite in float32."""
    tensor = tensors.get(name)
    if not isinstance(tensor, np.ndarray):
        raise InteropError(f"tensor {name} is missing")
    if not jnp.issubdtype(tensor.dtype, jnp.floating):
        raise InteropError(f"tensor {name} is {tensor.dtype}: must be floating point")
    with np.errstate(over="ignore"):
        if not np.isfinite(tensor.astype(np.float32)).all():
            raise InteropError(f"tensor {name} has values that are not finite in float32")
    return tensor


def find_shape(tensors: Tensors, name: str, ndim: int) -> tuple[int, ...]:
    """Returns the shape of a tensor that determines a setting. Raises InteropError unless it has `ndim` dimensions."""
    tensor = tensors.get(name)
    if not isinstance(tensor, np.ndarray):
        raise InteropError(f"tensor {name} is missing: must have {ndim} dimensions")
    if tensor.ndim != ndim or not tensor.size:
        raise InteropError(f"tensor {name} has shape {tensor.shape}: must have {ndim} dimensions, none of them 0")
    return tensor.shape


def count_numbered(tensors: Tensors, prefix: str) -> int:
    """Returns how many of "{prefix}0", "{prefix}1", ... begin the name of a tensor, up to the first gap."""
    numbers = {name.removeprefix(prefix).split(".")[0] for name in tensors if name.startswith(prefix)}
    return next(n for n in itertools.count() if str(n) not in numbers)


def transpose_kernel(weight: np.ndarray, ndim: int) -> np.ndarray:
    """Returns a linear layer's (out, in) as (in, out), a convolution's (out, in, h, w) as (h, w, in, out).

    With `ndim` = 2, a 1x1 convolution becomes (in, out) too. Raises ValueError for any other weight.
    """
    if ndim == 2:
        return weight.reshape(weight.shape[:2]).T
    return weight.transpose(2, 3, 1, 0)
