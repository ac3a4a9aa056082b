"""Tensors of a PyTorch checkpoint as NumPy arrays.

A hostile file chooses every argument here, so most lines are checks: that is what this module is for.
"""

import dataclasses
import math
from typing import Any

import ml_dtypes
import numpy as np

from diffusion_jax.interop.error import InteropError, quote

# PyTorch's storage classes and the dtypes of their numbers, which are little-endian.
STORAGE_DTYPES = {
    "torch DoubleStorage": np.dtype("<f8"),
    "torch FloatStorage": np.dtype("<f4"),
    "torch HalfStorage": np.dtype("<f2"),
    "torch BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch LongStorage": np.dtype("<i8"),
    "torch IntStorage": np.dtype("<i4"),
    "torch ShortStorage": np.dtype("<i2"),
    "torch CharStorage": np.dtype("i1"),
    "torch ByteStorage": np.dtype("u1"),
    "torch BoolStorage": np.dtype("?"),
}

# The integers of a pickle have any size: the product of a larger shape could take hours to compute.
_MAX_DIMENSIONS, _MAX_SIDE = 32, 2**48


@dataclasses.dataclass(frozen=True)
class Storage:
    """The numbers that one or more tensors view."""

    data: bytes
    dtype: np.dtype

    def __len__(self) -> int:
        return len(self.data) // self.dtype.itemsize


def rebuild_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> np.ndarray:
    """The read-only array of PyTorch's _rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks, ...).

    Offset and strides count numbers, not bytes. Raises InteropError if the tensor does not lie inside its storage.
    """
    if not isinstance(storage, Storage):
        raise InteropError("has a tensor without a storage; refused")
    if not (are_sizes((offset,)) and are_sizes(shape) and are_sizes(stride) and len(shape) == len(stride)):
        raise InteropError("has a tensor whose shape, strides and offset are not integers >= 0; refused")
    if len(shape) > _MAX_DIMENSIONS or max(shape, default=0) > _MAX_SIDE:
        raise InteropError(f"has a tensor with a shape beyond {_MAX_DIMENSIONS} dimensions or 2**48; refused")
    if not math.prod(shape):
        return np.ndarray(shape, storage.dtype, b"")
    tensor = f"has a tensor of shape {quote(str(tuple(shape)))}"
    if offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True)) >= len(storage):
        raise InteropError(f"{tensor} that reaches past its storage; refused")
    if math.prod(shape) > len(storage):
        raise InteropError(f"{tensor} over only {len(storage)} numbers; save it with .contiguous()")
    size = storage.dtype.itemsize
    return np.ndarray(shape, storage.dtype, storage.data, offset * size, [step * size for step in stride])


def rebuild_parameter(tensor: Any, *_: Any) -> Any:
    """The tensor of PyTorch's _rebuild_parameter(data, requires_grad, hooks)."""
    return tensor


def are_sizes(values: Any) -> bool:
    """Whether `values` is a tuple or list of integers >= 0; bool is rejected."""
    return isinstance(values, tuple | list) and all(type(n) is int and n >= 0 for n in values)
