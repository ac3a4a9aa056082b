"""Noise schedules: alpha(t) and sigma(t) in x_t = alpha(t) x0 + sigma(t) eps, t = 0 (data) to t = 1 (noise).

Every schedule is a frozen dataclass with three functions of the time, `alpha`, `sigma` and `log_snr`, and `time`, the
inverse of `log_snr`, where log_snr = 2 log(alpha / sigma). Times are scalars or arrays of any shape in [0, 1]; results
are float32 of the same shape. A DDPM of T steps is a `Discrete` schedule: its table is exact at t = k/T, k = 0..T, and
abar_0 = 1.

To add a schedule, subclass `Schedule` (define `log_snr` and `time`) or `Discrete` (define `betas`).
"""

from diffusion_jax.process.schedules.base import Schedule
from diffusion_jax.process.schedules.continuous import Karras, RectifiedFlow
from diffusion_jax.process.schedules.discrete import Betas, Cosine, Discrete, LinearBeta, Sigmoid
from diffusion_jax.process.schedules.wrappers import Shifted, ZeroTerminalSNR

__all__ = [
    "Betas",
    "Cosine",
    "Discrete",
    "Karras",
    "LinearBeta",
    "RectifiedFlow",
    "Schedule",
    "Shifted",
    "Sigmoid",
    "ZeroTerminalSNR",
]


def __dir__() -> list[str]:
    return __all__
