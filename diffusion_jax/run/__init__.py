"""A trained network and how it generates images."""

from diffusion_jax.run.network import Network
from diffusion_jax.run.run import Run
from diffusion_jax.run.settings import Guidance, Sampling

__all__ = ["Guidance", "Network", "Run", "Sampling"]


def __dir__() -> list[str]:
    return __all__
