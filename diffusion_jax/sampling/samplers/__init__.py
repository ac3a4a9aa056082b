"""Samplers: one reverse step each. A new sampler gets its own file here, or stays in your own package."""

from diffusion_jax.sampling.samplers.base import Sampler
from diffusion_jax.sampling.samplers.ddim import DDIM
from diffusion_jax.sampling.samplers.ddpm import DDPM
from diffusion_jax.sampling.samplers.deis import DEIS
from diffusion_jax.sampling.samplers.dpm_solver import DPMSolverPP, DPMSolverPP2S
from diffusion_jax.sampling.samplers.euler import Euler, EulerAncestral
from diffusion_jax.sampling.samplers.heun import Heun
from diffusion_jax.sampling.samplers.midpoint import Midpoint
from diffusion_jax.sampling.samplers.rk45 import RK45
from diffusion_jax.sampling.samplers.self_conditioned import SelfConditioned
from diffusion_jax.sampling.samplers.strided import StridedPosterior
from diffusion_jax.sampling.samplers.unipc import UniPC

__all__ = [
    "DDIM",
    "DDPM",
    "DEIS",
    "RK45",
    "DPMSolverPP",
    "DPMSolverPP2S",
    "Euler",
    "EulerAncestral",
    "Heun",
    "Midpoint",
    "Sampler",
    "SelfConditioned",
    "StridedPosterior",
    "UniPC",
]


def __dir__() -> list[str]:
    return __all__
