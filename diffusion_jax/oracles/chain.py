"""The exact law of the samplers whose step is x_s = a x_t + b x0-hat + noise, on Gaussian data, in float64.

Independent of the samplers: a and b follow from the marginals that the step must keep.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from diffusion_jax.oracles.data import Gaussian, Scales

Variance = Callable[[Scales, Scales], float]


def posterior_variance(at_t: Scales, at_s: Scales) -> float:
    """Variance of q(x_s | x_t, x0): the Gaussians q(x_s | x0) and q(x_t | x_s) multiplied."""
    (alpha_t, _), (alpha_s, sigma_s) = at_t, at_s
    ratio, step = alpha_t / alpha_s, step_variance(at_t, at_s)
    return sigma_s**2 * step / (step + ratio**2 * sigma_s**2)


def step_variance(at_t: Scales, at_s: Scales) -> float:
    """Variance of q(x_t | x_s): what x_t has beyond x_s scaled by alpha_t/alpha_s."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = at_t, at_s
    return sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2


def no_noise(at_t: Scales, at_s: Scales) -> float:
    return 0.0


def half_noise(at_t: Scales, at_s: Scales) -> float:
    """That of DDIM at eta = 1/2."""
    return 0.25 * posterior_variance(at_t, at_s)


def large_noise(at_t: Scales, at_s: Scales) -> float:
    """That of "large" DDPM, which draws none on data."""
    return step_variance(at_t, at_s) if at_s[1] > 0 else 0.0


def law(data: Gaussian, alphas: np.ndarray, sigmas: np.ndarray, kept: Variance, drawn: Variance) -> tuple[float, float]:
    """Mean and standard deviation of the samples of `data` with its exact denoiser.

    `alphas` and `sigmas` are those of the times, from noise to data; x starts as N(0, sigmas[0]^2). The step
    has the marginal N(alpha_s x0, sigma_s^2) for the true x0 and noise of variance kept(at_t, at_s);
    the noise drawn has variance drawn(at_t, at_s) (the same but for "large" DDPM).
    """
    data_mean, data_variance = np.float64(data.mean), np.float64(data.std) ** 2
    mean, variance = 0.0, sigmas[0] ** 2
    for at_t, at_s in pairwise(zip(alphas.tolist(), sigmas.tolist(), strict=True)):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = at_t, at_s
        a = np.sqrt(max(sigma_s**2 - kept(at_t, at_s), 0)) / sigma_t
        b = alpha_s - a * alpha_t
        gain = alpha_t * data_variance / (alpha_t**2 * data_variance + sigma_t**2)
        mean = (a + b * gain) * mean + b * (1 - gain * alpha_t) * data_mean
        variance = (a + b * gain) ** 2 * variance + drawn(at_t, at_s)
    return mean, np.sqrt(variance)
