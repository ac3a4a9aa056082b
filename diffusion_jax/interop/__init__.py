"""Networks that other projects have trained. `load` reads a PyTorch checkpoint without PyTorch."""

from diffusion_jax.interop.error import InteropError
from diffusion_jax.interop.imported import Imported, load

__all__ = ["Imported", "InteropError", "load"]


def __dir__() -> list[str]:
    return __all__
