"""Editing: functions that change existing images with any denoiser, without training.

| function | result |
|---|---|
| `image_to_image` | images generated from noisy versions of the input |
| `inpaint` | the unknown part of images |
| `conditioned` | a denoiser for images with a known linear measurement (`Downsample`, `Grayscale`, `Mask`) |
| `invert`, `decode`, `reconstruct` | the noise of images, and images from noise |
| `interpolate`, `slerp` | images between two images, noise between two noises |

Points [B, D], audio [B, L, C] and volumes [B, D, H, W, C] are edited as images [B, H, W, C] are; `Downsample` and
`Grayscale` need images.
"""

from diffusion_jax.sampling.editing.conditioning import conditioned
from diffusion_jax.sampling.editing.image_to_image import image_to_image
from diffusion_jax.sampling.editing.inpainting import inpaint
from diffusion_jax.sampling.editing.inversion import decode, invert, reconstruct
from diffusion_jax.sampling.editing.latents import interpolate, slerp
from diffusion_jax.sampling.editing.measurements import Downsample, Grayscale, Mask, Measurement

__all__ = [
    "Downsample",
    "Grayscale",
    "Mask",
    "Measurement",
    "conditioned",
    "decode",
    "image_to_image",
    "inpaint",
    "interpolate",
    "invert",
    "reconstruct",
    "slerp",
]


def __dir__() -> list[str]:
    return __all__
