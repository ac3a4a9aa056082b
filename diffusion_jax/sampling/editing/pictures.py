"""What every kind of editing asks of the pictures that it is given."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


def checked_pictures(images: ArrayLike) -> jax.Array:
    """Pictures [B, H, W, C] as float32. Raises ValueError for another shape, and for whole numbers."""
    images = jnp.asarray(images)
    if images.ndim != 4:
        raise ValueError(f"images have shape {np.shape(images)}: need [B, H, W, C]")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images are {images.dtype}: give floats in [-1, 1], as losses.to_float makes them")
    return images.astype(jnp.float32)
