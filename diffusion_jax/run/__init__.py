"""A trained network and how pictures are drawn from it."""

from diffusion_jax.run.network import Network as Network
from diffusion_jax.run.run import Run as Run
from diffusion_jax.run.sampling import Sampling as Sampling
