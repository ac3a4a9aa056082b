"""Conversion between uint8 pixels in 0..255 and float32 in [-1, 1]; and the label for "no class"."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

__all__ = ["LARGEST_FLOAT", "NO_LABEL", "to_float", "to_uint8"]

NO_LABEL = -1  # the label of an image without a class
# Floats of 0..255 that were not scaled exceed this; latents and standardized data do not.
LARGEST_FLOAT = 20.0


def to_float(images: jax.Array) -> jax.Array:
    """Returns uint8 images as float32 in [-1, 1], u/127.5 - 1; float images are returned as float32, unscaled.

    >>> to_float(jnp.array([0, 255], jnp.uint8)).tolist()
    [-1.0, 1.0]
    """
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 127.5 - 1.0
    return images.astype(jnp.float32)


def to_uint8(x: ArrayLike) -> np.ndarray:
    """Returns images in [-1, 1] as uint8: floor(127.5 x + 128), clipped to 0..255; the unbiased inverse of `to_float`.

    uint8 images are returned unchanged.

    >>> to_uint8([-1.0, 0.0, 1.0]).tolist()
    [0, 128, 255]
    """
    x = np.asarray(x)
    if x.dtype == np.uint8:
        return x
    return np.clip(x.astype(np.float32) * 127.5 + 128.0, 0, 255).astype(np.uint8)


def __dir__() -> list[str]:
    return __all__
