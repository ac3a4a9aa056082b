"""Loss weights as functions of the log-SNR.

A weighting is a weight of the squared error of x0; each prediction type turns it into the weight of its own output.
"""

import dataclasses

import jax
import jax.numpy as jnp

from diffusion_jax.process.predictions import LOG_SNR_LIMIT, Prediction
from diffusion_jax.validation import Checked, number

__all__ = ["EDM", "MinSNR", "Sigmoid", "Uniform", "Weighting"]


@dataclasses.dataclass(frozen=True)
class Weighting(Checked):
    """Base of the weightings. To add one, subclass it and define `of_x0`.

    >>> class SNR(Weighting):
    ...     def of_x0(self, log_snr):
    ...         return jnp.exp(log_snr)
    >>> SNR()(dj.predictions.X0(), jnp.float32(0.0)).item()
    1.0
    """

    def __call__(self, prediction: Prediction, log_snr: jax.Array) -> jax.Array:
        """Weight of the squared error of the network's output, shaped like `log_snr`, finite everywhere."""
        log_snr = jnp.clip(log_snr, -LOG_SNR_LIMIT, LOG_SNR_LIMIT)
        return self.of_x0(log_snr) * prediction.x0_gain(log_snr) ** 2

    def of_x0(self, log_snr: jax.Array) -> jax.Array:
        """Weight of the squared error of x0, at a finite log-SNR."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Uniform(Weighting):
    """Weight 1 on the squared error of the output: the simple loss (Ho et al. 2020, Eq. 14).

    >>> Uniform()(dj.predictions.V(), jnp.array([-4.0, 4.0])).tolist()
    [1.0, 1.0]
    """

    def __call__(self, prediction, log_snr):
        return jnp.ones_like(log_snr)


@dataclasses.dataclass(frozen=True)
class MinSNR(Weighting):
    """min(SNR, gamma) on the squared error of x0, for every prediction type (Hang et al. 2023, Sec. 3.4).

    Attributes:
      gamma: the largest weight.

    >>> MinSNR(5.0)(dj.predictions.X0(), jnp.array([0.0, 4.0])).tolist()
    [1.0, 5.0]
    """

    gamma: float = dataclasses.field(default=5.0, metadata=number("(0, inf)"))

    def of_x0(self, log_snr):
        return jnp.minimum(jnp.exp(log_snr), self.gamma)


@dataclasses.dataclass(frozen=True)
class EDM(Weighting):
    """(s^2 + d^2)/(s d)^2 on the squared error of x0 (Karras et al. 2022, Table 1).

    With s = sigma/alpha and d = `sigma_data`.

    Attributes:
      sigma_data: the standard deviation of the data.

    >>> EDM(0.5)(dj.predictions.X0(), jnp.float32(0.0)).item()
    5.0
    """

    sigma_data: float = dataclasses.field(default=0.5, metadata=number("(0, inf)"))

    def of_x0(self, log_snr):
        return jnp.exp(log_snr) + self.sigma_data**-2


@dataclasses.dataclass(frozen=True)
class Sigmoid(Weighting):
    """sigmoid(bias - log_snr) on the squared error of the noise (Kingma and Gao 2023; Hoogeboom et al. 2024).

    This is the weight of an error at its log-SNR. The factor -d(log_snr)/dt of the papers, how often each log-SNR
    is drawn, belongs to the times and the schedule.

    Attributes:
      bias: the log-SNR at which the weight is 1/2; a larger one puts weight on less noise.

    >>> Sigmoid()(dj.predictions.Eps(), jnp.float32(0.0)).item()
    0.5
    """

    bias: float = dataclasses.field(default=0.0, metadata=number())

    def of_x0(self, log_snr):
        return jnp.exp(log_snr) * jax.nn.sigmoid(self.bias - log_snr)
