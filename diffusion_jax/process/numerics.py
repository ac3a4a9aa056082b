"""Arithmetic that is finite where the plain formula is not."""

import jax
import jax.numpy as jnp

__all__ = ["safe_sqrt"]


def safe_sqrt(x: jax.Array) -> jax.Array:
    """Returns sqrt(x), whose derivative at x = 0 is 0 instead of infinite.

    Where no noise is added, as in the step to data, its std is the constant 0: without this, its infinite derivative
    times 0 makes every gradient through a sampler NaN.

    >>> safe_sqrt(jnp.array([0.0, 4.0])).tolist(), jax.grad(safe_sqrt)(0.0).item()
    ([0.0, 2.0], 0.0)
    """
    zero = x == 0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, x)))
