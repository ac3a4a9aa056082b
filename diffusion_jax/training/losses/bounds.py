"""Losses that train the variance of the reverse step with the variational bound."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from diffusion_jax.process import vlb
from diffusion_jax.process.schedules.base import check_discrete
from diffusion_jax.training.losses.base import DenoisingLoss, Examples
from diffusion_jax.training.losses.diffusion import DiffusionLoss
from diffusion_jax.validation import number

__all__ = ["HybridLoss", "VLBLoss"]


@dataclasses.dataclass(frozen=True)
class VLBLoss(DenoisingLoss):
    """The variational bound alone, in bits per dimension (Nichol and Dhariwal 2021, Sec. 3.3).

    T L_t + L_T at one random t = k/T of a discrete schedule: an unbiased estimate of the sum of all terms. The
    terms differ by orders of magnitude; the paper draws t with `LossSecondMomentTimes`.

    Attributes:
      schedule, prediction, times, label_drop, self_condition: as in `DenoisingLoss`.

    >>> VLBLoss(dj.schedules.Cosine(), dj.predictions.Eps(), times=dj.losses.LossSecondMomentTimes()).learns_variance
    True
    """

    learns_variance: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        check_discrete(type(self).__name__, self.schedule)

    def per_example(self, apply, params, examples, **kwargs):
        output, fraction = self.predict(apply, params, examples, **kwargs)
        return _bound(self, output, fraction, examples)


@dataclasses.dataclass(frozen=True)
class HybridLoss(DiffusionLoss):
    """DiffusionLoss + vlb_weight * (T L_t + L_T) (Nichol and Dhariwal 2021, Eq. 16), on a discrete schedule.

    The bound is the one of `VLBLoss`. It trains the variance only: no gradient flows from the bound into the
    prediction, nor from the squared error into the variance. An evaluation reports the squared error as the loss
    and the bound as vlb, in bits per dimension.

    Attributes:
      schedule, prediction, weighting, times, label_drop, self_condition: as in `DiffusionLoss`.
      vlb_weight: weight of the bound in bits per dimension; the paper's is 0.001. For no bound use `DiffusionLoss`.

    >>> HybridLoss(dj.schedules.Cosine(), dj.predictions.Eps()).vlb_weight
    0.001
    """

    learns_variance: ClassVar[bool] = True
    vlb_weight: float = dataclasses.field(default=0.001, metadata=number("(0, inf)"))

    def __post_init__(self):
        super().__post_init__()
        check_discrete(type(self).__name__, self.schedule)

    def per_example(self, apply, params, examples, **kwargs):
        parts = self.parts(apply, params, examples, **kwargs)
        return parts["loss"] + self.vlb_weight * parts["vlb"]

    def parts(self, apply, params, examples, **kwargs):
        output, fraction = self.predict(apply, params, examples, **kwargs)
        constant = jax.lax.stop_gradient(output)
        return {
            "loss": self.squared_error(output, examples),
            "vlb": _bound(self, constant, fraction, examples),
        }


def _bound(loss: DenoisingLoss, output: jax.Array, fraction: jax.Array, examples: Examples) -> jax.Array:
    """T L_t + L_T of each example, [B], for the network's prediction and its variance fraction."""
    schedule, steps = loss.schedule, check_discrete(type(loss).__name__, loss.schedule)
    denoised = loss.prediction.denoised(output, *loss.diffuse(examples))
    k = jnp.rint(examples.t * steps)
    learned = dataclasses.replace(denoised, variance_fraction=fraction)
    term = vlb.term(schedule, examples.x0, learned, examples.t, (k - 1) / steps, "learned")
    return steps * term + vlb.prior(schedule, examples.x0)
