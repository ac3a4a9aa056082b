"""Networks in Flax Linen, called as model.apply(params, x, time, labels, train=...); and others in Flax NNX."""

from etils import epy

from diffusion_jax.models.convnext_unet import ConvNeXtUNet
from diffusion_jax.models.film_unet import FiLMUNet
from diffusion_jax.models.unet import UNet

# NNX takes half a second to import. A config does not find the function here, because it cannot hold its arguments.
with epy.lazy_api_imports(globals()):
    from diffusion_jax.models.nnx import from_nnx

__all__ = ["ConvNeXtUNet", "FiLMUNet", "UNet", "from_nnx"]


def __dir__() -> list[str]:
    return __all__
