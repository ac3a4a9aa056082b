"""The random streams of sampling: one key per image, folded by step, so that no image depends on its batch."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from diffusion_jax.validation import concrete, describe


def image_keys(key: jax.Array, indices: jax.Array) -> jax.Array:
    """A stream of its own for each of the pictures `indices` of a threefry key, [B]."""
    check_key(key)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, indices)


def fold(keys: jax.Array, i: ArrayLike) -> jax.Array:
    """Each picture's key for step i; 0 is the first noise."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, i)


def first_noise(key: jax.Array, indices: ArrayLike, shape: tuple[int, ...]) -> jax.Array:
    """The standard normal noise [B, *shape] from which pictures `indices`, [B], of `key` start."""
    return standard_normal(fold(image_keys(key, jnp.asarray(indices)), 0), shape)


def standard_normal(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal noise [B, *shape], float32: picture i from keys[i] alone."""
    return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)


def image_indices(indices: ArrayLike | None, n: int) -> jax.Array:
    """Integers [n], 0..n-1 unless given. Raises ValueError for others."""
    if indices is None:
        return jnp.arange(n)
    found = concrete("indices", indices)
    if found is not None and found.dtype.kind not in "iuf":
        raise ValueError(f"indices = {describe(indices)}: need one integer for each of {n} pictures")
    if found is not None and found.size and not -(2**31) <= found.min() <= found.max() < 2**32:
        raise ValueError(f"indices are from {found.min()} to {found.max()}: need 32 bits each")
    indices = jnp.asarray(indices)
    if indices.shape != (n,) or not jnp.issubdtype(indices.dtype, jnp.integer):
        raise ValueError(
            f"indices have shape {indices.shape} of {indices.dtype}: need one integer for each of {n} pictures"
        )
    return indices


def check_key(key: jax.Array) -> None:
    """Raises ValueError for what is not one key of threefry."""
    typed = hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not typed and not (getattr(key, "dtype", None) == jnp.uint32 and key.shape == (2,)):
        raise ValueError(f"key = {describe(key)}: give one such as jax.random.key(0)")
    if typed and key.shape:
        raise ValueError(f"key has shape {key.shape}: give one key; every picture has its own part of it")
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        impl = str(jax.random.key_impl(key))
        if "threefry" not in impl and impl != "fry":
            raise ValueError(f"key is of the generator {impl}: use threefry, jax.random.key(0)")
