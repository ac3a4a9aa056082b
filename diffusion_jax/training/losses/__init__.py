"""The training loss: which times, which noise, what weight.

A loss draws (t, eps, label drop) for a batch and judges the network's output. The times and the weightings
are frozen dataclasses of their own; to add one, subclass `Times` or `Weighting`.
"""

from diffusion_jax.training.losses.base import NO_LABEL as NO_LABEL
from diffusion_jax.training.losses.base import Examples as Examples
from diffusion_jax.training.losses.base import Loss as Loss
from diffusion_jax.training.losses.base import Noised as Noised
from diffusion_jax.training.losses.base import to_float as to_float
from diffusion_jax.training.losses.bounds import HybridLoss as HybridLoss
from diffusion_jax.training.losses.bounds import VLBLoss as VLBLoss
from diffusion_jax.training.losses.diffusion import DiffusionLoss as DiffusionLoss
from diffusion_jax.training.losses.times import LogNormalTimes as LogNormalTimes
from diffusion_jax.training.losses.times import LossHistory as LossHistory
from diffusion_jax.training.losses.times import LossSecondMomentTimes as LossSecondMomentTimes
from diffusion_jax.training.losses.times import StratifiedTimes as StratifiedTimes
from diffusion_jax.training.losses.times import Times as Times
from diffusion_jax.training.losses.times import UniformTimes as UniformTimes
from diffusion_jax.training.losses.weightings import EDM as EDM
from diffusion_jax.training.losses.weightings import MinSNR as MinSNR
from diffusion_jax.training.losses.weightings import Sigmoid as Sigmoid
from diffusion_jax.training.losses.weightings import Uniform as Uniform
from diffusion_jax.training.losses.weightings import Weighting as Weighting
