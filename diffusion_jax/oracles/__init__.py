"""Data whose diffusion has a closed form: exact denoisers, flows and laws, to test samplers against."""

from diffusion_jax.oracles.chain import law
from diffusion_jax.oracles.data import Correlated, Gaussian, Mixture, exact_denoiser

__all__ = ["Correlated", "Gaussian", "Mixture", "exact_denoiser", "law"]


def __dir__() -> list[str]:
    return __all__
