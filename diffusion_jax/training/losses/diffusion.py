"""The weighted squared error."""

import dataclasses

import jax
import jax.numpy as jnp

from diffusion_jax.training.losses.base import DenoisingLoss, Examples
from diffusion_jax.training.losses.weightings import Uniform, Weighting
from diffusion_jax.validation import instance

__all__ = ["DiffusionLoss"]


@dataclasses.dataclass(frozen=True)
class DiffusionLoss(DenoisingLoss):
    """weight(t) * mean over pixels of (output - target)^2, per example.

    Attributes:
      schedule, prediction, times, label_drop, self_condition: as in `DenoisingLoss`.
      weighting: weight of the squared error by log-SNR.

    >>> loss = DiffusionLoss(dj.schedules.Cosine(), dj.predictions.Eps())
    >>> examples = loss.draw(jax.random.key(0), {"image": jnp.zeros((4, 8, 8, 1), jnp.uint8)})
    >>> loss.per_example(lambda params, x, time, labels: x, {}, examples).shape
    (4,)
    """

    weighting: Weighting = dataclasses.field(default=Uniform(), metadata=instance(Weighting, "MinSNR()"))

    def per_example(self, apply, params, examples, **kwargs):
        output, _ = self.predict(apply, params, examples, **kwargs)
        return self.squared_error(output, examples)

    def squared_error(self, output: jax.Array, examples: Examples) -> jax.Array:
        """The loss of each example, [B], for the network's prediction `output`."""
        _, alpha, sigma = self.diffuse(examples)
        error = output - self.prediction.target(examples.x0, examples.eps, alpha, sigma)
        squared = jnp.mean(error**2, axis=tuple(range(1, error.ndim)))
        return self.weighting(self.prediction, self.schedule.log_snr(examples.t)) * squared
