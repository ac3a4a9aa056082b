"""Perfect networks and denoisers for data with closed forms."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from diffusion_jax.oracles.data import Data
from diffusion_jax.process.predictions import Denoised, Preconditioned, Prediction
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling.denoiser import Denoise, denoiser

__all__ = ["exact_denoiser", "perfect_network"]


def exact_denoiser(data: Data, schedule: Schedule, prediction: Prediction | None = None) -> Denoise:
    """The best denoiser for `data`: denoise(x_t, t) -> Denoised(E[x0 | x_t], E[eps | x_t]), t a scalar or [B].

    With a `prediction`, the answer comes from the `perfect_network` of that type behind `dj.denoiser`, which tests the
    conversion between them.

    >>> schedule = dj.schedules.Cosine()
    >>> denoise = dj.oracles.exact_denoiser(dj.oracles.PointMass(0.5), schedule, dj.predictions.V())
    >>> x0 = denoise(jnp.ones((2, 4, 4, 1)), 0.5).x0
    >>> x0.shape, bool(jnp.allclose(x0, 0.5))
    ((2, 4, 4, 1), True)
    """
    if prediction is not None:
        return denoiser(perfect_network(data, schedule, prediction), None, schedule, prediction)

    def denoise(x_t: jax.Array, t: ArrayLike, **kwargs: jax.Array) -> Denoised:
        t = jnp.asarray(t, jnp.float32)
        t = t.reshape(-1, *[1] * (x_t.ndim - 1)) if t.ndim else t
        return data.denoised(x_t, schedule.alpha(t), schedule.sigma(t))

    return denoise


def perfect_network(data: Data, schedule: Schedule, prediction: Prediction) -> Callable[..., jax.Array]:
    """apply(params, x, time, labels), a network for `dj.denoiser` that returns the best `prediction` for `data`.

    It has no parameters and ignores labels. As after training, it knows only the times of a discrete schedule's table:
    it returns NaN at others.

    >>> apply = dj.oracles.perfect_network(dj.oracles.PointMass(0.5), dj.schedules.Cosine(), dj.predictions.X0())
    >>> apply(None, jnp.ones((2, 1, 1, 1)), jnp.array([0.5, 0.00005]), None).ravel().tolist()
    [0.5, nan]
    """

    def apply(params, x, time, labels, x0_hat=None):  # the best answer needs no earlier estimate
        time = time.reshape(-1, *[1] * (x.ndim - 1))
        if isinstance(prediction, Preconditioned):
            # The network receives -log_snr/8 as time, and x_t scaled to unit variance for the std it assumes.
            alpha, sigma = schedule.scales(-8 * time)
            x = x * jnp.sqrt(sigma**2 + (alpha * prediction.sigma_data) ** 2)
            time = schedule.time(-8 * time)
        else:
            alpha, sigma = schedule.alpha(time), schedule.sigma(time)
        exact = data.denoised(x, alpha, sigma)
        output = prediction.target(exact.x0, exact.eps, alpha, sigma)
        if schedule.steps is None:
            return output
        k = time * schedule.steps
        is_trained = (jnp.abs(k - jnp.round(k)) < 0.02) & (k > 0.5) & (k < schedule.steps + 0.5)
        return jnp.where(is_trained, output, jnp.nan)

    return apply
