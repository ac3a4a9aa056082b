"""What every kind of editing asks of the pictures that it is given."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from diffusion_jax.arguments import check_finite

_FAR = 16.0  # data that are no pictures may leave [-1, 1], but 0 .. 255 is another range altogether


def checked_pictures(images: ArrayLike) -> jax.Array:
    """Pictures [B, H, W, C] as float32.

    Raises ValueError for another shape, whole numbers, and numbers that are not finite or far from [-1, 1].
    """
    images = checked_states("images", images)
    if not isinstance(images, jax.core.Tracer):
        found = np.asarray(images)
        if np.abs(found).max(initial=0.0) > _FAR:
            raise ValueError(f"images are from {found.min():g} to {found.max():g}: give floats in [-1, 1]")
    return images


def checked_states(name: str, x: ArrayLike) -> jax.Array:
    """Pictures or their noise, [B, H, W, C], as float32. Raises ValueError as above, but for the range."""
    x = jnp.asarray(x)
    if x.ndim != 4:
        raise ValueError(f"{name} have shape {np.shape(x)}: need [B, H, W, C]")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{name} are {x.dtype}: give floats in [-1, 1], as losses.to_float makes them")
    check_finite(name, x)
    return x.astype(jnp.float32)


def known_pixels(mask: ArrayLike, shape: tuple[int, ...]) -> jax.Array:
    """The mask as bool, [H, W, 1 or C] or [B, H, W, 1 or C]. Raises ValueError for any other."""
    if not isinstance(mask, jax.core.Tracer):
        mask = np.asarray(mask)
        if not ((mask == 0) | (mask == 1)).all():
            raise ValueError(
                "mask has other values than 0 and 1: give 1 where a pixel is known, 0 where it is not"
            )
    batch, *picture = shape
    if mask.shape not in [(*lead, *picture[:-1], c) for lead in ((), (batch,)) for c in (1, picture[-1])]:
        height, width, channels = picture
        raise ValueError(
            f"mask has shape {mask.shape}: need [{height}, {width}, 1 or {channels}], or one a picture, "
            f"[{batch}, {height}, {width}, 1 or {channels}]"
        )
    return jnp.asarray(mask, bool)
