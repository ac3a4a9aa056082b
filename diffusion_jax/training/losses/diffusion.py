"""The weighted squared error."""

import dataclasses

import jax
import jax.numpy as jnp

from diffusion_jax.training.losses.base import Examples, Noised
from diffusion_jax.training.losses.weightings import Uniform, Weighting
from diffusion_jax.validation import instance


@dataclasses.dataclass(frozen=True)
class DiffusionLoss(Noised):
    """weight(t) * mean over pixels of (output - target)^2, per example.

    Attributes:
      schedule, prediction, times, label_drop, self_condition: as in `Noised`.
      weighting: weight of the squared error by log-SNR.
    """

    weighting: Weighting = dataclasses.field(default=Uniform(), metadata=instance(Weighting, "MinSNR()"))

    def per_example(self, apply, params, examples, **kwargs):
        output, _ = self.output(apply, params, examples, **kwargs)
        return self.squared_error(output, examples)

    def squared_error(self, output: jax.Array, examples: Examples) -> jax.Array:
        """The loss of each example, [B], whose network has predicted `output`."""
        _, alpha, sigma = self.noised(examples)
        error = output - self.prediction.target(examples.x0, examples.eps, alpha, sigma)
        squared = jnp.mean(error**2, axis=tuple(range(1, error.ndim)))
        return self.weighting(self.prediction, self.schedule.log_snr(examples.t)) * squared
