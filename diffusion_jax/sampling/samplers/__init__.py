"""Samplers: one reverse step each. A new one gets its own file here, or stays in your own package."""

from diffusion_jax.sampling.samplers.base import Sampler as Sampler
from diffusion_jax.sampling.samplers.ddim import DDIM as DDIM
from diffusion_jax.sampling.samplers.ddpm import DDPM as DDPM
from diffusion_jax.sampling.samplers.dpm_solver import DPMSolverPP as DPMSolverPP
from diffusion_jax.sampling.samplers.heun import Heun as Heun
from diffusion_jax.sampling.samplers.strided import StridedPosterior as StridedPosterior
