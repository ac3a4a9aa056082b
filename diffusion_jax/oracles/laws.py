"""Exact laws of discretised chains on Gaussian data, in float64.

They hold for every sampler whose step is x_s = a x_t + b x0-hat + noise. They do not depend on the samplers' code:
a and b follow from the marginals that the step must keep.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from diffusion_jax.oracles.data import Gaussian, Scales

__all__ = [
    "ancestral_law",
    "half_noise",
    "no_noise",
    "posterior_variance",
    "step_variance",
    "step_variance_unless_data",
]

Variance = Callable[[Scales, Scales], float]


def posterior_variance(at_t: Scales, at_s: Scales) -> float:
    """Variance of q(x_s | x_t, x0), from the product of the Gaussians q(x_s | x0) and q(x_t | x_s).

    >>> round(dj.oracles.posterior_variance((0.0, 1.0), (0.6, 0.8)), 3)  # at zero SNR, x_t says nothing of x_s
    0.64
    """
    (alpha_t, _), (alpha_s, sigma_s) = at_t, at_s
    ratio, step = alpha_t / alpha_s, step_variance(at_t, at_s)
    return sigma_s**2 * step / (step + ratio**2 * sigma_s**2)


def step_variance(at_t: Scales, at_s: Scales) -> float:
    """Variance of q(x_t | x_s): the noise of x_t in addition to x_s scaled by alpha_t/alpha_s.

    >>> dj.oracles.step_variance((0.0, 1.0), (0.6, 0.8))
    1.0
    """
    (alpha_t, sigma_t), (alpha_s, sigma_s) = at_t, at_s
    return sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2


def no_noise(at_t: Scales, at_s: Scales) -> float:
    """0, the variance of deterministic samplers.

    >>> dj.oracles.no_noise((0.0, 1.0), (0.6, 0.8))
    0.0
    """
    return 0.0


def half_noise(at_t: Scales, at_s: Scales) -> float:
    """A quarter of the posterior's variance, as in DDIM with eta = 0.5.

    >>> round(dj.oracles.half_noise((0.0, 1.0), (0.6, 0.8)), 3)
    0.16
    """
    return 0.25 * posterior_variance(at_t, at_s)


def step_variance_unless_data(at_t: Scales, at_s: Scales) -> float:
    """`step_variance`, but 0 in the step to data: the noise of DDPM with variance "large".

    >>> dj.oracles.step_variance_unless_data((0.6, 0.8), (1.0, 0.0))
    0.0
    """
    return step_variance(at_t, at_s) if at_s[1] > 0 else 0.0


def ancestral_law(
    data: Gaussian, alphas: np.ndarray, sigmas: np.ndarray, kept: Variance, added: Variance
) -> tuple[float, float]:
    """Mean and standard deviation of the samples that the exact denoiser of `data` gives on a grid of times.

    The step has the marginal N(alpha_s x0, sigma_s^2) for the true x0 and noise of variance kept(at_t, at_s); the
    noise that the sampler adds has variance added(at_t, at_s). They differ only for DDPM with variance "large".

    Args:
      data: its mean and std are numbers.
      alphas, sigmas: [steps + 1] at the times, from noise to data. The chain starts as N(0, sigmas[0]^2).
      kept, added: functions of (at_t, at_s), such as `posterior_variance`.

    >>> alphas, sigmas = np.array([0.0, 0.6, 1.0]), np.array([1.0, 0.8, 0.0])
    >>> noise = dj.oracles.posterior_variance
    >>> mean, std = dj.oracles.ancestral_law(dj.oracles.Gaussian(0.3, 0.5), alphas, sigmas, noise, noise)
    >>> round(float(mean), 3), round(float(std), 3)
    (0.3, 0.164)
    """
    data_mean, data_variance = np.float64(data.mean), np.float64(data.std) ** 2
    mean, variance = 0.0, sigmas[0] ** 2
    for at_t, at_s in pairwise(zip(alphas.tolist(), sigmas.tolist(), strict=True)):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = at_t, at_s
        a = np.sqrt(max(sigma_s**2 - kept(at_t, at_s), 0)) / sigma_t
        b = alpha_s - a * alpha_t
        gain = alpha_t * data_variance / (alpha_t**2 * data_variance + sigma_t**2)
        mean = (a + b * gain) * mean + b * (1 - gain * alpha_t) * data_mean
        variance = (a + b * gain) ** 2 * variance + added(at_t, at_s)
    return mean, np.sqrt(variance)


def __dir__() -> list[str]:
    return __all__
