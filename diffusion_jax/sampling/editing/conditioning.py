"""The denoiser of pictures of which a linear measurement is known."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from diffusion_jax.process.forward import expand
from diffusion_jax.process.predictions import Denoised
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling.denoiser import Denoise
from diffusion_jax.sampling.editing.measurements import Measurement
from diffusion_jax.validation import as_number, check_floats, check_integer, check_number


def conditioned(
    denoise: Denoise,
    schedule: Schedule,
    measurement: Measurement,
    y: ArrayLike,
    noise_std: ArrayLike = 0.0,
    iterations: int = 3,
    lowest_snr: ArrayLike = 0.01,
) -> Denoise:
    """E[x0 | x_t, y] for y = A x0 + noise_std z, by the gradient of the denoiser: for any sampler.

    PiGDM (Song et al. 2023, Sec. 3) takes x0 given x_t for a Gaussian N(x0-hat, C), so that

        x0' = x0-hat + C A^T (A C A^T + noise_std^2)^-1 (y - A x0-hat),    eps' = (x_t - alpha x0') / sigma.

    They have C = r_t^2 I with r_t^2 chosen by hand; here it is the covariance that the denoiser itself has,
    C = (sigma^2/alpha) d x0-hat / d x_t (Tweedie), and the inverse is applied by so many `iterations` of
    conjugate gradients, each one gradient of the network (Rozet et al. 2024, MMPS, Sec. 4). On Gaussian data
    it is exact with as many iterations as A C A^T has different eigenvalues.

    At a low SNR x0-hat hardly depends on x_t, and sigma^2/alpha enlarges the error of its gradient: a network
    trained on digits has a negative C for alpha below 0.1. Where alpha^2 / sigma^2 <= `lowest_snr`, C is
    their r_t^2 I, sigma^2 / (alpha^2 + sigma^2) I, right for uncorrelated data of unit variance.

    Put `clipped` around it, not inside: a clipped pixel has no gradient. Without it, and the more with
    guidance, some pictures of a trained network diverge: C is far off where it has seen nothing alike.

    Args:
      measurement: A; see `measurements`.
      y: float32 [B, ...], what measurement.forward makes of pictures.
      noise_std: standard deviation of the noise on y; traced. A scalar or one a picture, [B].
      lowest_snr: 0 for an exact denoiser; traced.

    Raises ValueError for a negative noise_std or lowest_snr, iterations below 1, y that is not finite, and,
    when called, y of another shape.
    """
    check_integer("iterations", iterations)
    check_floats("y", y)
    lowest_snr = as_number("lowest_snr", lowest_snr, "[0, inf)")
    check_number("noise_std", noise_std, "[0, inf)")
    y, noise_std = jnp.asarray(y, jnp.float32), jnp.asarray(noise_std, jnp.float32)
    if y.ndim < 2:
        raise ValueError(f"y has shape {y.shape}: need [B, ...], a measurement of each picture")

    if noise_std.shape not in ((), y.shape[:1]):
        raise ValueError(f"noise_std has shape {noise_std.shape}: give a number, or {len(y)}, one a picture")

    def denoise_given_y(x_t: jax.Array, t: ArrayLike, **given: jax.Array) -> Denoised:
        alpha, sigma = expand(schedule.alpha(t), x_t), expand(schedule.sigma(t), x_t)
        x0, pull, here = jax.vjp(lambda x: _with_x0(denoise(x, t, **given)), x_t, has_aux=True)
        missing = y - _matching(measurement.forward(x0), y)
        unknowing = alpha**2 <= lowest_snr * sigma**2
        scale = sigma**2 / jnp.where(unknowing, 1.0, alpha)

        def covariance(z: jax.Array) -> jax.Array:
            """C A^T z."""
            u = measurement.adjoint(z)
            return jnp.where(unknowing, sigma**2 / (alpha**2 + sigma**2) * u, scale * pull(u)[0])

        def operator(z: jax.Array) -> jax.Array:
            return measurement.forward(covariance(z)) + expand(noise_std, z) ** 2 * z

        shift = covariance(_solve(operator, missing, iterations))
        return dataclasses.replace(here, x0=x0 + shift, eps=here.eps - alpha / sigma * shift)

    return denoise_given_y


def _with_x0(denoised: Denoised) -> tuple[jax.Array, Denoised]:
    return denoised.x0, denoised


def _matching(measured: jax.Array, y: jax.Array) -> jax.Array:
    if measured.shape != y.shape:
        raise ValueError(f"y has shape {y.shape}: the pictures measure as {measured.shape}")
    return measured


def _solve(operator: Callable[[jax.Array], jax.Array], b: jax.Array, iterations: int) -> jax.Array:
    """z with operator(z) = b by conjugate gradients (Hestenes and Stiefel 1952), picture by picture.

    Stops for a picture where it is solved, or where the operator is not positive: a network's need not be.
    """

    def dot(u: jax.Array, v: jax.Array) -> jax.Array:
        return jnp.sum(u * v, axis=range(1, u.ndim), keepdims=True)

    def iterate(_, state: tuple) -> tuple:
        z, r, p = state
        q = operator(p)
        squared, curvature = dot(r, r), dot(p, q)
        step = jnp.where(curvature > 0, squared / jnp.where(curvature > 0, curvature, 1.0), 0.0)
        r_new = r - step * q
        p_new = r_new + dot(r_new, r_new) / jnp.where(squared > 0, squared, 1.0) * p
        return z + step * p, r_new, jnp.where(curvature > 0, p_new, 0.0)

    return jax.lax.fori_loop(0, iterations, iterate, (jnp.zeros_like(b), b, b))[0]
