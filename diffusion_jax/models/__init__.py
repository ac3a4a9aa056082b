"""Networks, in Flax Linen. A model is called as model.apply(params, x, time, labels, train=...)."""

from diffusion_jax.models.convnext_unet import ConvNeXtUNet as ConvNeXtUNet
from diffusion_jax.models.film_unet import FiLMUNet as FiLMUNet
from diffusion_jax.models.unet import UNet as UNet
