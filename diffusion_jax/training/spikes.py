"""Losses and gradient norms that are far above their running median."""

from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["init", "is_spike", "push"]

_WINDOW = 100
# The median of fewer values says little.
_ENOUGH = 20


def init() -> jax.Array:
    """The losses and gradient norms of no batches, float32 [2, 100]."""
    # With the dtype: a weak type, as of jnp.nan, is lost in the first step, so that the second compiles again.
    return jnp.full((2, _WINDOW), jnp.nan, jnp.float32)


def push(recent: Any, loss: jax.Array, grad_norm: jax.Array) -> Any:
    """`recent` with the values of one more batch in place of the oldest; () stays ()."""
    if not isinstance(recent, jax.Array):
        return recent
    return jnp.concatenate([recent[:, 1:], jnp.stack([loss, grad_norm])[:, None]], axis=1)


def is_spike(recent: Any, loss: jax.Array, grad_norm: jax.Array, factor: float) -> jax.Array:
    """Whether the loss or the gradient norm exceeds `factor` times the median of `recent`, once there are 20."""
    if not isinstance(recent, jax.Array):
        return jnp.bool_(False)
    enough = jnp.isfinite(recent[0]).sum() >= _ENOUGH
    return enough & (jnp.stack([loss, grad_norm]) > factor * jnp.nanmedian(recent, axis=1)).any()
