"""Networks in Flax Linen, called as model.apply(params, x, time, labels, train=...)."""

from diffusion_jax.models.convnext_unet import ConvNeXtUNet
from diffusion_jax.models.film_unet import FiLMUNet
from diffusion_jax.models.unet import UNet

__all__ = ["ConvNeXtUNet", "FiLMUNet", "UNet"]


def __dir__() -> list[str]:
    return __all__
