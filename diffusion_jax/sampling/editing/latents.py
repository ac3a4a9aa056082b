"""Interpolation between images, through the noise that they come from."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from diffusion_jax.process.forward import expand
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling.denoiser import Denoise
from diffusion_jax.sampling.editing.images import as_images
from diffusion_jax.sampling.editing.inversion import decode, invert
from diffusion_jax.sampling.grids import Grid, Uniform
from diffusion_jax.validation import check_shape, checked, floats, numbers

__all__ = ["interpolate", "slerp"]


@checked(weights=numbers())
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
    """Returns images between a (weight 0) and b (weight 1), [K, N, H, W, C] for weights [K].

    `invert` takes both to their noise, `slerp` interpolates the noise, and `decode` generates the images (Song et
    al. 2021, DDIM, Sec. 5.3 and 5.4). The ends are `reconstruct` of a and b. `weights` are traced; `denoise` is for N
    images.

    Raises ValueError unless a and b are images of the same shape and weights is a non-empty list of numbers.

    >>> schedule = dj.schedules.RectifiedFlow()
    >>> denoise = dj.denoiser(lambda params, x, t, labels: 0 * x, None, schedule, dj.predictions.Velocity())
    >>> a, b = np.full((1, 4, 4, 1), 0.5), np.full((1, 4, 4, 1), -0.5)
    >>> dj.editing.interpolate(denoise, schedule, a, b, [0.0, 1.0], steps=2)[:, 0, 0, 0].tolist()
    [[0.5], [-0.5]]
    """
    a, b = as_images(a), as_images(b)
    check_shape("b", b, a.shape)
    weights = jnp.asarray(weights)
    if weights.ndim != 1 or not weights.size:
        raise ValueError(f"weights has shape {weights.shape}: must be a list of numbers, from 0 for a to 1 for b")
    settings: dict[str, Any] = {"steps": steps, "grid": grid}
    from_a, from_b = (invert(denoise, schedule, x, iterations=iterations, **settings) for x in (a, b))

    def between(weight: jax.Array) -> jax.Array:
        return decode(denoise, schedule, slerp(from_a, from_b, weight), **settings)

    return jax.lax.map(between, weights)


@checked(a=floats("N", "..."), b=floats("N", "..."), weight=numbers())
def slerp(a: ArrayLike, b: ArrayLike, weight: ArrayLike) -> jax.Array:
    """Interpolates from a (weight 0) to b (weight 1) along the arc between them, per image (Shoemake 1985).

    sin((1 - w) theta) / sin(theta) a + sin(w theta) / sin(theta) b, with theta the angle between a and b.
    A straight line passes through noise of too small a norm, which a network is not trained on; the arc does
    not (Song et al. 2021, DDIM, interpolate so). Both ends are exact.

    Args:
      a, b: float32 [N, H, W, C]. Opposite points have no shortest arc, and the result between them is arbitrary.
      weight: a scalar or [N].

    Returns float32 [N, H, W, C]. Raises ValueError for other shapes.

    >>> dj.editing.slerp(np.array([[2.0, 0.0]]), np.array([[0.0, 2.0]]), 0.5).round(3).tolist()
    [[1.4140000343322754, 1.4140000343322754]]
    """
    check_shape("b", b, np.shape(a))
    check_shape("weight", weight, (), np.shape(a)[:1])
    a, b, weight = (jnp.asarray(value, jnp.float32) for value in (a, b, weight))
    # Opposite points have the angle pi, whose sine is 0: a little less keeps the ends exact and the rest finite.
    half_turns = jnp.minimum(_angle(a, b) / jnp.pi, 1 - 1e-6)
    # sinc(x) = sin(pi x) / (pi x): finite where theta is 0, and the ratio is exactly 1 at an end.
    from_a, from_b = (w * jnp.sinc(w * half_turns) / jnp.sinc(half_turns) for w in (1 - weight, weight))
    return expand(from_a, a) * a + expand(from_b, b) * b


def _angle(a: jax.Array, b: jax.Array) -> jax.Array:
    """Angle in [0, pi] between the images of a and b, [N]; exact to rounding, also where it is small."""
    a, b = (x.reshape(len(x), -1) for x in (a, b))
    length_a, length_b = (jnp.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    a, b = a * length_b, b * length_a
    return 2 * jnp.arctan2(jnp.linalg.norm(a - b, axis=1), jnp.linalg.norm(a + b, axis=1))
