"""Editing: what samplers make of pictures that are there already, pure functions over any denoiser."""

from diffusion_jax.sampling.editing.conditioning import conditioned as conditioned
from diffusion_jax.sampling.editing.image_to_image import image_to_image as image_to_image
from diffusion_jax.sampling.editing.inpainting import inpaint as inpaint
from diffusion_jax.sampling.editing.inversion import decode as decode
from diffusion_jax.sampling.editing.inversion import invert as invert
from diffusion_jax.sampling.editing.inversion import reconstruct as reconstruct
from diffusion_jax.sampling.editing.latents import interpolate as interpolate
from diffusion_jax.sampling.editing.latents import slerp as slerp
from diffusion_jax.sampling.editing.measurements import Downsample as Downsample
from diffusion_jax.sampling.editing.measurements import Grayscale as Grayscale
from diffusion_jax.sampling.editing.measurements import Mask as Mask
from diffusion_jax.sampling.editing.measurements import Measurement as Measurement
