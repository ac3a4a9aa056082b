"""A convolution whose gradients are fast inside loops on a CPU."""

from functools import partial
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import SymbolicZero

__all__ = ["CONVOLUTION", "conv_general_dilated"]

# The name of the outputs, for what a gradient may keep.
CONVOLUTION = "convolution"

_Settings = tuple[tuple[str, Any], ...]  # names and values, hashable


def conv_general_dilated(
    x: jax.Array, kernel: jax.Array, window_strides: Any, padding: Any, **settings: Any
) -> jax.Array:
    """`jax.lax.conv_general_dilated` for images [B, H, W, C] and kernels [H, W, I, O], with the same derivatives.

    XLA's fast CPU code takes convolutions in this order of dimensions only. It brings others into the order, but not
    inside a loop (jax 0.10.2), where the gradients, for which JAX permutes the dimension numbers instead of the
    arrays, took 20 to 50 times as long: in micro-batches and in editing by the gradient. Here the arrays are
    transposed, so that the gradients are convolutions in the same order. Derivatives in forward mode are the slow ones.

    For `nn.Conv(conv_general_dilated=...)`; `settings` are the other arguments. Raises ValueError for groups.
    """
    for name in ("feature_group_count", "batch_group_count"):
        if settings.get(name, 1) != 1:
            raise ValueError(f"{name} = {settings[name]}: must be 1; use jax.lax.conv_general_dilated for groups")
    settings |= {"window_strides": window_strides, "padding": tuple(tuple(pair) for pair in padding)}
    return checkpoint_name(_convolve(x, kernel, tuple(settings.items())), CONVOLUTION)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _convolve(x: jax.Array, kernel: jax.Array, settings: _Settings) -> jax.Array:
    return _plain(x, kernel, settings)


def _plain(x: jax.Array, kernel: jax.Array, settings: _Settings, **changes: Any) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, **(dict(settings) | changes))


# A convolution is linear in each argument. JAX transposes these linear functions to get the gradients: it swaps B with
# C of the images, I with O of the kernel, and the kernel with the output. What comes out is in the order NHWC, HWIO.


def _linear_in_x(x: jax.Array, kernel: jax.Array, settings: _Settings) -> jax.Array:
    return _plain(x, kernel.transpose(0, 1, 3, 2), settings, dimension_numbers=("NHWC", "HWOI", "NHWC"))


def _linear_in_kernel(x: jax.Array, kernel: jax.Array, settings: _Settings) -> jax.Array:
    numbers = ("CHWN", "IHWO", "HWNC")
    y = _plain(x.transpose(3, 1, 2, 0), kernel.transpose(2, 0, 1, 3), settings, dimension_numbers=numbers)
    return y.transpose(2, 0, 1, 3)


@partial(_convolve.defjvp, symbolic_zeros=True)
def _convolve_jvp(settings: _Settings, primals: Any, tangents: Any) -> tuple[jax.Array, Any]:
    (x, kernel), (dx, dkernel) = primals, tangents
    y = _convolve(x, kernel, settings)
    parts = []
    if not isinstance(dx, SymbolicZero):
        parts.append(_by_platform(_linear_in_x, dx, kernel, settings))
    if not isinstance(dkernel, SymbolicZero):
        parts.append(_by_platform(_linear_in_kernel, x, dkernel, settings))
    return y, sum(parts[1:], parts[0]) if parts else jax.numpy.zeros_like(y)


def _by_platform(linear: Any, x: jax.Array, kernel: jax.Array, settings: _Settings) -> jax.Array:
    fast, plain = partial(linear, settings=settings), partial(_plain, settings=settings)
    return jax.lax.platform_dependent(x, kernel, cpu=fast, default=plain)
