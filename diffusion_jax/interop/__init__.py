"""Other people's weights. `load` takes a PyTorch checkpoint as it is, without PyTorch."""

from diffusion_jax.interop.imported import Imported as Imported
from diffusion_jax.interop.imported import load as load
from diffusion_jax.interop.torch_pickle import InteropError as InteropError
