"""Argument checks shared by the editing functions."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from diffusion_jax.process.pixels import LARGEST_FLOAT
from diffusion_jax.sampling.loop import as_batch
from diffusion_jax.validation import check_shape, concrete

__all__ = ["as_images", "as_mask", "as_states", "keep_known"]


def as_images(images: ArrayLike) -> jax.Array:
    """Returns images, or other data, [B, ...] as float32.

    Raises ValueError for another shape, integers, and numbers that are not finite or far outside [-1, 1].

    >>> as_images(np.zeros((1, 8, 8, 3))).dtype
    dtype('float32')
    """
    found = concrete("images", images)
    if found is not None and found.dtype.kind == "f" and np.abs(found).max(initial=0.0) > LARGEST_FLOAT:
        raise ValueError(f"images are from {found.min():g} to {found.max():g}: must be floats in [-1, 1]")
    return as_states("images", images)


def as_states(name: str, x: ArrayLike) -> jax.Array:
    """Returns images or their noise, [B, ...], as float32. Raises ValueError as `as_images` does, for any range.

    >>> as_states("latents", 80 * np.ones((1, 8, 8, 3))).dtype
    dtype('float32')
    """
    return as_batch(name, x, ("B", "..."))


def keep_known(images: ArrayLike, mask: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Returns `images` with the unknown pixels set to 0, whatever their values, and the mask as bool.

    >>> images, known = keep_known(np.full((1, 1, 2, 1), 0.5), np.array([[[1], [0]]]))
    >>> images.ravel().tolist()
    [0.5, 0.0]
    """
    check_shape("images", images, ("B", "..."))
    known = as_mask(mask, np.shape(images))
    return as_images(jnp.where(known, images, 0)), known


def as_mask(mask: ArrayLike, shape: tuple[int, ...]) -> jax.Array:
    """Returns the mask of images of `shape` [B, ..., C] as bool, [..., 1 or C] or [B, ..., 1 or C].

    Raises ValueError for another shape, and for values other than 0 and 1.

    >>> as_mask(np.ones((8, 8, 1)), (2, 8, 8, 3)).shape
    (8, 8, 1)
    """
    found = concrete("mask", mask)
    if found is not None and not ((found == 0) | (found == 1)).all():
        raise ValueError("mask has values other than 0 and 1: must be 1 where a pixel is known, 0 elsewhere")
    batch, *pixels, channels = shape
    per_pixel, per_value = (*pixels, 1), (*pixels, channels)
    check_shape("mask", mask, per_pixel, per_value, (batch, *per_pixel), (batch, *per_value))
    return jnp.asarray(mask, bool)
