"""Image diffusion in JAX. The public names; see README.md for the tour."""

from diffusion_jax import figures as figures
from diffusion_jax import interop as interop
from diffusion_jax import models as models
from diffusion_jax import verify as verify
from diffusion_jax.data import sources as sources
from diffusion_jax.process import forward as forward
from diffusion_jax.process import predictions as predictions
from diffusion_jax.process import schedules as schedules
from diffusion_jax.process.predictions import Denoised as Denoised
from diffusion_jax.run import Run as Run
from diffusion_jax.runtime import images as images
from diffusion_jax.sampling import editing as editing
from diffusion_jax.sampling import grids as grids
from diffusion_jax.sampling import guidance as guidance
from diffusion_jax.sampling import likelihood as likelihood
from diffusion_jax.sampling import samplers as samplers
from diffusion_jax.sampling.denoiser import clipped as clipped
from diffusion_jax.sampling.denoiser import denoiser as denoiser
from diffusion_jax.sampling.sample import sample as sample
from diffusion_jax.sampling.thresholding import dynamic_threshold as dynamic_threshold
from diffusion_jax.training import losses as losses
from diffusion_jax.training.state import TrainState as TrainState
from diffusion_jax.training.step import make_train_step as make_train_step
from diffusion_jax.version import __version__ as __version__
from diffusion_jax.workdir import load as load
from diffusion_jax.workdir import train as train
