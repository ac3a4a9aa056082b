"""The training loss: times, noise and weights.

A loss draws (t, eps, dropped labels) for a batch and computes the loss of the network's output. Times and
weightings are frozen dataclasses of their own; to add one, subclass `Times` or `Weighting`.
"""

from diffusion_jax.training.losses.base import DenoisingLoss, Examples, Loss
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
    "DenoisingLoss",
    "DiffusionLoss",
    "Examples",
    "HybridLoss",
    "LogNormalTimes",
    "Loss",
    "LossHistory",
    "LossSecondMomentTimes",
    "MinSNR",
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
