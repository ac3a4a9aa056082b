"""Data whose diffusion has a closed form: exact denoisers, probability flows and laws to test samplers against.

A sampler that runs on an exact denoiser must end where the closed form says:

>>> schedule, data = dj.schedules.RectifiedFlow(), dj.oracles.Gaussian(mean=0.3, std=0.5)
>>> denoise = dj.oracles.exact_denoiser(data, schedule)
>>> noise = np.array([[[[-1.0]]], [[[0.5]]]])
>>> x = dj.sample(jax.random.key(0), denoise, schedule, (2, 1, 1, 1), noise=noise, steps=100)
>>> exact = data.flow(noise, at_t=(0.0, 1.0), at_s=(1.0, 0.0))
>>> bool(np.abs(x - exact).max() < 0.01)
True

Closed-form answers are float64 NumPy and do not call the samplers; denoisers are `jax.numpy`, because they run
inside samplers.
"""

from diffusion_jax.oracles.data import Correlated, Data, Gaussian, Mixture, PointMass, scales
from diffusion_jax.oracles.laws import (
    ancestral_law,
    half_noise,
    no_noise,
    posterior_variance,
    step_variance,
    step_variance_unless_data,
)
from diffusion_jax.oracles.networks import exact_denoiser, perfect_network

__all__ = [
    "Correlated",
    "Data",
    "Gaussian",
    "Mixture",
    "PointMass",
    "ancestral_law",
    "exact_denoiser",
    "half_noise",
    "no_noise",
    "perfect_network",
    "posterior_variance",
    "scales",
    "step_variance",
    "step_variance_unless_data",
]


def __dir__() -> list[str]:
    return __all__
