"""The training loss: which times, which noise, what weight.

A loss draws (t, eps, label drop) for a batch and judges the network's output. The times and the weightings
are frozen dataclasses of their own; to add one, subclass `Times` or `Weighting`.
"""

from diffusion_jax.training.losses.base import Examples, Loss, Noised
from diffusion_jax.training.losses.bounds import HybridLoss, VLBLoss
from diffusion_jax.training.losses.diffusion import DiffusionLoss
from diffusion_jax.training.losses.times import (
    LogNormalTimes,
    LossHistory,
    LossSecondMomentTimes,
    StratifiedTimes,
    Times,
    UniformTimes,
)
from diffusion_jax.training.losses.weightings import EDM, MinSNR, Sigmoid, Uniform, Weighting

__all__ = [
    "EDM",
    "DiffusionLoss",
    "Examples",
    "HybridLoss",
    "LogNormalTimes",
    "Loss",
    "LossHistory",
    "LossSecondMomentTimes",
    "MinSNR",
    "Noised",
    "Sigmoid",
    "StratifiedTimes",
    "Times",
    "Uniform",
    "UniformTimes",
    "VLBLoss",
    "Weighting",
]


def __dir__() -> list[str]:
    return __all__
