"""Between two pictures, by way of the noises that they come from."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from diffusion_jax.process.forward import expand
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling.denoiser import Denoise
from diffusion_jax.sampling.editing.inversion import decode, invert
from diffusion_jax.sampling.editing.pictures import checked_pictures
from diffusion_jax.sampling.grids import Grid, Uniform
from diffusion_jax.validation import check_floats, check_number


def interpolate(
    denoise: Denoise,
    schedule: Schedule,
    a: ArrayLike,
    b: ArrayLike,
    weights: ArrayLike,
    *,
    steps: int = 100,
    grid: Grid = Uniform(),
    iterations: int = 2,
) -> jax.Array:
    """Pictures between a (weight 0) and b (weight 1), [K, N, H, W, C] for weights [K].

    Both are taken to their noise by `invert`, the noises are joined by `slerp`, and `decode` makes pictures
    of what lies between (Song et al. 2021, DDIM, Sec. 5.3 and 5.4). The ends are a and b as `reconstruct`
    has them. `weights` are traced; `denoise` is for N pictures.

    Raises ValueError where a and b are not pictures of one shape, or weights not a row of numbers.
    """
    a, b = checked_pictures(a), checked_pictures(b)
    check_number("weights", weights)
    weights = jnp.asarray(weights, jnp.float32)
    if a.shape != b.shape:
        raise ValueError(f"a and b have shapes {a.shape} and {b.shape}: need the same [N, H, W, C]")
    if weights.ndim != 1 or not weights.size:
        raise ValueError(f"weights have shape {weights.shape}: need a row of numbers, 0 for a to 1 for b")
    settings: dict[str, Any] = {"steps": steps, "grid": grid}
    from_a, from_b = (invert(denoise, schedule, x, iterations=iterations, **settings) for x in (a, b))

    def between(weight: jax.Array) -> jax.Array:
        return decode(denoise, schedule, slerp(from_a, from_b, weight), **settings)

    return jax.lax.map(between, weights)


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
    check_floats("a", a)
    check_floats("b", b)
    check_number("weight", weight)
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
