"""Editing: what can be done to noises before pictures are drawn from them."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from diffusion_jax.process.forward import expand


def slerp(a: ArrayLike, b: ArrayLike, weight: ArrayLike) -> jax.Array:
    """From a (weight 0) to b (weight 1) along the arc between them (Shoemake 1985), picture by picture.

    sin((1 - w) theta) / sin(theta) a + sin(w theta) / sin(theta) b, with theta the angle between a and b.
    A straight line passes through noise of too small a norm, which a network has never seen; the arc does
    not (Song et al. 2021, DDIM, interpolate so). Both ends are exact.

    Args:
      a, b: float32 [N, H, W, C]. Opposite ones have no shortest arc; what is between them is arbitrary.
      weight: a scalar or [N].

    Returns float32 [N, H, W, C]. Raises ValueError for other shapes.
    """
    a, b, weight = (jnp.asarray(value, jnp.float32) for value in (a, b, weight))
    if a.shape != b.shape or a.ndim < 2:
        raise ValueError(f"a and b have shapes {a.shape} and {b.shape}: need the same [N, ...]")
    if weight.shape not in ((), a.shape[:1]):
        raise ValueError(f"weight has shape {weight.shape}: need a scalar or [{len(a)}], one a picture")
    half_turns = _angle(a, b) / jnp.pi
    # sinc(x) = sin(pi x) / (pi x): finite where theta is 0, and the ratio is 1 in every bit at an end.
    from_a, from_b = (w * jnp.sinc(w * half_turns) / jnp.sinc(half_turns) for w in (1 - weight, weight))
    return expand(from_a, a) * a + expand(from_b, b) * b


def _angle(a: jax.Array, b: jax.Array) -> jax.Array:
    """Angle in [0, pi] between the pictures of a and b, [N]; exact to rounding also where it is small."""
    a, b = (x.reshape(len(x), -1) for x in (a, b))
    length_a, length_b = (jnp.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    a, b = a * length_b, b * length_a
    return 2 * jnp.arctan2(jnp.linalg.norm(a - b, axis=1), jnp.linalg.norm(a + b, axis=1))
