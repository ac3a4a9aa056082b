"""Exponential moving average of the parameters."""

from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["decay_at", "update_average"]


def decay_at(step: jax.Array, decay: float) -> jax.Array:
    """min(decay, (1 + step)/(10 + step)) at update `step` = 0, 1, ...: the warm-up of TensorFlow's EMA.

    A constant decay of 0.9999 would still hold 37% of the initial weights after 10 000 updates.

    >>> [f"{decay:.3f}" for decay in decay_at(jnp.array([0, 90, 10**6]), 0.999)]
    ['0.100', '0.910', '0.999']
    """
    step = jnp.asarray(step, jnp.float32)
    return jnp.minimum(decay, (1 + step) / (10 + step))


def update_average(average: Any, params: Any, decay: jax.Array) -> Any:
    """decay * average + (1 - decay) * params for every leaf, in the dtype of the average, float32.

    >>> update_average({"w": jnp.float32(1.0)}, {"w": jnp.float32(3.0)}, jnp.float32(0.5))
    {'w': Array(2., dtype=float32)}
    """
    return jax.tree.map(lambda e, p: e + (1 - decay) * (p.astype(e.dtype) - e), average, params)
