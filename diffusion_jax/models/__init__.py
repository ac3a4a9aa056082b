"""Networks, in Flax Linen. A model is called as model.apply(params, x, time, labels, train=...)."""

from diffusion_jax.models.unet import UNet as UNet
