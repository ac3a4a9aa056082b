"""Denoisers of images with a known linear measurement."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from diffusion_jax.process.forward import expand
from diffusion_jax.process.predictions import Denoised
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling.denoiser import Denoise, of_one_schedule
from diffusion_jax.sampling.editing.measurements import Measurement
from diffusion_jax.validation import check_shape, checked, floats, integer, number, numbers

__all__ = ["conditioned"]


@of_one_schedule("denoise")
@checked(y=floats("B", "..."), noise_std=numbers("[0, inf)"), iterations=integer(1), lowest_snr=number("[0, inf)"))
def conditioned(
    denoise: Denoise,
    schedule: Schedule,
    measurement: Measurement,
    y: ArrayLike,
    noise_std: ArrayLike = 0.0,
    iterations: int = 3,
    lowest_snr: ArrayLike = 0.01,
) -> Denoise:
    """Returns the denoiser E[x0 | x_t, y] for y = A x0 + noise_std z, by the gradient of `denoise`; for any sampler.

    PiGDM (Song et al. 2023, Sec. 3) approximates x0 given x_t by a Gaussian N(x0-hat, C), so that

        x0' = x0-hat + C A^T (A C A^T + noise_std^2)^-1 (y - A x0-hat),    eps' = (x_t - alpha x0') / sigma.

    They use C = r_t^2 I with r_t^2 chosen by hand; here C is the covariance implied by the denoiser,
    C = (sigma^2/alpha) d x0-hat / d x_t (Tweedie), and the inverse is applied by `iterations` of conjugate
    gradients, each one gradient of the network (Rozet et al. 2024, MMPS, Sec. 4). On Gaussian data it is exact
    with as many iterations as A C A^T has different eigenvalues.

    At a low SNR x0-hat hardly depends on x_t, and sigma^2/alpha enlarges the error of its gradient: a network
    trained on digits has a negative C for alpha below 0.1. Where alpha^2 / sigma^2 <= `lowest_snr`, C is
    their r_t^2 I, sigma^2 / (alpha^2 + sigma^2) I, right for uncorrelated data of unit variance.

    Apply `clipped` afterwards, not before: a clipped pixel has no gradient. Without it, and more often with
    guidance, some images of a trained network diverge, because C is inaccurate far from the training data.

    Args:
      denoise: the denoiser, differentiable in x_t.
      schedule: the noise schedule of `denoise`.
      measurement: A; see `measurements`.
      y: float32 [B, ...], measurement.forward of images.
      noise_std: std of the noise on y; traced. A scalar or one per image, [B].
      iterations: number of iterations of conjugate gradients.
      lowest_snr: 0 for an exact denoiser; traced.

    Raises ValueError for a negative noise_std or lowest_snr, iterations below 1, y that is not finite, and,
    when the result is called, for y of another shape.

    >>> schedule = dj.schedules.RectifiedFlow()
    >>> def denoise(x_t, t):
    ...     return dj.Denoised(x_t, x_t)
    >>> measurement = dj.editing.Mask(np.array([[[1], [0]]]))
    >>> y = measurement.forward(np.full((1, 1, 2, 1), 0.25))
    >>> dj.editing.conditioned(denoise, schedule, measurement, y)(jnp.ones((1, 1, 2, 1)), 0.5).x0.ravel().tolist()
    [0.25, 1.0]
    """
    check_shape("noise_std", noise_std, (), np.shape(y)[:1])
    y, noise_std = jnp.asarray(y, jnp.float32), jnp.asarray(noise_std, jnp.float32)

    def denoise_given_y(x_t: jax.Array, t: ArrayLike, **kwargs: jax.Array) -> Denoised:
        alpha, sigma = expand(schedule.alpha(t), x_t), expand(schedule.sigma(t), x_t)
        x0, pull, here = jax.vjp(lambda x: _split_x0(denoise(x, t, **kwargs)), x_t, has_aux=True)
        measured = measurement.forward(x0)
        check_shape("y", y, measured.shape)
        is_low = alpha**2 <= lowest_snr * sigma**2
        scale = sigma**2 / jnp.where(is_low, 1.0, alpha)

        def covariance(z: jax.Array) -> jax.Array:
            """C A^T z."""
            u = measurement.adjoint(z)
            return jnp.where(is_low, sigma**2 / (alpha**2 + sigma**2) * u, scale * pull(u)[0])

        def operator(z: jax.Array) -> jax.Array:
            return measurement.forward(covariance(z)) + expand(noise_std, z) ** 2 * z

        shift = covariance(_conjugate_gradients(operator, y - measured, iterations))
        return dataclasses.replace(here, x0=x0 + shift, eps=here.eps - alpha / sigma * shift)

    return denoise_given_y


def _split_x0(denoised: Denoised) -> tuple[jax.Array, Denoised]:
    return denoised.x0, denoised


def _conjugate_gradients(operator: Callable[[jax.Array], jax.Array], b: jax.Array, iterations: int) -> jax.Array:
    """Solves operator(z) = b for each image by conjugate gradients (Hestenes and Stiefel 1952).

    An image stops where it is solved, or where the operator is not positive, which a network does not guarantee.
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
