"""Other people's weights. `load` takes a PyTorch checkpoint as it is, without PyTorch."""

from diffusion_jax.interop.imported import Imported, load
from diffusion_jax.interop.torch_pickle import InteropError

__all__ = ["Imported", "InteropError", "load"]


def __dir__() -> list[str]:
    return __all__
