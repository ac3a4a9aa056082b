"""What every kind of editing asks of the pictures that it is given."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from diffusion_jax.validation import check_floats, concrete

_FAR = 16.0  # data that are no pictures may leave [-1, 1], but 0 .. 255 is another range altogether


def checked_pictures(images: ArrayLike) -> jax.Array:
    """Pictures [B, H, W, C] as float32.

    Raises ValueError for another shape, whole numbers, and numbers that are not finite or far from [-1, 1].
    """
    found = concrete("images", images)
    if found is not None and found.dtype.kind == "f" and np.abs(found).max(initial=0.0) > _FAR:
        raise ValueError(f"images are from {found.min():g} to {found.max():g}: give floats in [-1, 1]")
    return checked_states("images", images)


def checked_states(name: str, x: ArrayLike) -> jax.Array:
    """Pictures or their noise, [B, H, W, C], as float32. Raises ValueError as above, but for the range."""
    check_floats(name, x)
    _check_batch(name, x)
    return jnp.asarray(x, jnp.float32)


def known_part(images: ArrayLike, mask: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Pictures with 0 for what is not known of them, whatever stands there, and the mask as bool."""
    _check_batch("images", images)
    known = known_pixels(mask, np.shape(images))
    return checked_pictures(jnp.where(known, images, 0)), known


def _check_batch(name: str, x: ArrayLike) -> None:
    if np.ndim(x) != 4:
        raise ValueError(f"{name} has shape {np.shape(x)}: need [B, H, W, C]")


def known_pixels(mask: ArrayLike, shape: tuple[int, ...]) -> jax.Array:
    """The mask as bool, [H, W, 1 or C] or [B, H, W, 1 or C]. Raises ValueError for any other."""
    found = concrete("mask", mask)
    if found is not None and not ((found == 0) | (found == 1)).all():
        raise ValueError("mask has other values than 0 and 1: give 1 where a pixel is known, 0 elsewhere")
    mask = jnp.asarray(mask, bool)
    batch, *picture = shape
    if mask.shape not in [(*lead, *picture[:-1], c) for lead in ((), (batch,)) for c in (1, picture[-1])]:
        height, width, channels = picture
        raise ValueError(
            f"mask has shape {mask.shape}: need [{height}, {width}, 1 or {channels}], or one a picture, "
            f"[{batch}, {height}, {width}, 1 or {channels}]"
        )
    return mask
