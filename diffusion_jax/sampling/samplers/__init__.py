"""Samplers: one reverse step each. A new one gets its own file here, or stays in your own package."""

from diffusion_jax.sampling.samplers.base import Sampler as Sampler
from diffusion_jax.sampling.samplers.ddim import DDIM as DDIM
from diffusion_jax.sampling.samplers.ddpm import DDPM as DDPM
from diffusion_jax.sampling.samplers.deis import DEIS as DEIS
from diffusion_jax.sampling.samplers.dpm_solver import DPMSolverPP as DPMSolverPP
from diffusion_jax.sampling.samplers.dpm_solver import DPMSolverPP2S as DPMSolverPP2S
from diffusion_jax.sampling.samplers.euler import Euler as Euler
from diffusion_jax.sampling.samplers.euler import EulerAncestral as EulerAncestral
from diffusion_jax.sampling.samplers.heun import Heun as Heun
from diffusion_jax.sampling.samplers.midpoint import Midpoint as Midpoint
from diffusion_jax.sampling.samplers.rk45 import RK45 as RK45
from diffusion_jax.sampling.samplers.self_conditioned import SelfConditioned as SelfConditioned
from diffusion_jax.sampling.samplers.strided import StridedPosterior as StridedPosterior
from diffusion_jax.sampling.samplers.unipc import UniPC as UniPC
