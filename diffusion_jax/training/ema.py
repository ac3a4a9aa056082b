"""Exponential moving average of the parameters."""

from typing import Any

import jax
import jax.numpy as jnp


def decay_at(step: jax.Array, decay: float) -> jax.Array:
    """min(decay, (1 + step)/(10 + step)) at update `step` = 0, 1, ...: the warm-up of TensorFlow's EMA.

    A constant 0.9999 would still hold 37% of the initial weights after 10 000 updates.
    """
    step = jnp.asarray(step, jnp.float32)
    return jnp.minimum(decay, (1 + step) / (10 + step))


def update(ema_params: Any, params: Any, decay: jax.Array) -> Any:
    """decay * ema + (1 - decay) * params, leaf by leaf, kept in the average's own float32."""
    return jax.tree.map(lambda e, p: e + (1 - decay) * (p.astype(e.dtype) - e), ema_params, params)
