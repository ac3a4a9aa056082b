"""The random streams of sampling: one key per image, folded by step, so that no image depends on its batch."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from diffusion_jax.validation import check_integers, check_shape, describe

__all__ = ["as_image_indices", "check_key", "first_noise", "fold", "image_keys", "standard_normal"]


def image_keys(key: jax.Array, indices: jax.Array) -> jax.Array:
    """Returns the key of each of the images `indices`, [B], of a threefry key.

    >>> image_keys(jax.random.key(0), jnp.arange(3)).shape
    (3,)
    """
    check_key(key)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, indices)


def fold(keys: jax.Array, i: ArrayLike) -> jax.Array:
    """Returns each image's key for step i, [B]; 0 is the first noise.

    >>> keys = image_keys(jax.random.key(0), jnp.arange(3))
    >>> fold(keys, 1).shape
    (3,)
    """
    return jax.vmap(jax.random.fold_in, (0, None))(keys, i)


def first_noise(key: jax.Array, indices: ArrayLike, shape: tuple[int, ...]) -> jax.Array:
    """Returns the standard normal noise [B, *shape] that the images `indices`, [B], of `key` start from.

    >>> first_noise(jax.random.key(0), jnp.array([4, 7]), (8, 8, 3)).shape
    (2, 8, 8, 3)
    """
    return standard_normal(fold(image_keys(key, jnp.asarray(indices)), 0), shape)


def standard_normal(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns standard normal noise [B, *shape], float32; image i depends only on keys[i].

    >>> standard_normal(jax.random.split(jax.random.key(0), 2), (8, 8, 3)).shape
    (2, 8, 8, 3)
    """
    return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)


def as_image_indices(indices: ArrayLike | None, n: int) -> jax.Array:
    """Returns the indices of n images as an array; None means 0..n-1.

    Raises ValueError unless `indices` are n integers of 32 bits.

    >>> as_image_indices(None, 3).tolist()
    [0, 1, 2]
    """
    if indices is None:
        return jnp.arange(n)
    check_shape("indices", indices, (n,))
    check_integers("indices", indices, -(2**31), 2**32 - 1)
    return jnp.asarray(indices)


def check_key(key: jax.Array) -> None:
    """Raises ValueError unless `key` is one threefry key.

    >>> check_key(jax.random.split(jax.random.key(0)))
    Traceback (most recent call last):
    ...
    ValueError: key has shape (2,): must be one key; each image derives its own
    """
    is_typed = hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    is_raw = not is_typed and getattr(key, "dtype", None) == jnp.uint32 and key.shape == (2,)
    if not is_typed and not is_raw:
        raise ValueError(f"key = {describe(key)}: must be one key, such as jax.random.key(0)")
    if is_typed and np.ndim(key):
        raise ValueError(f"key has shape {np.shape(key)}: must be one key; each image derives its own")
    generator = str(jax.random.key_impl(key)) if is_typed else "threefry"
    if "threefry" not in generator and generator != "fry":
        raise ValueError(f"key uses the generator {generator}: must be threefry, such as jax.random.key(0)")
