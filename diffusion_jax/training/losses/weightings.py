"""Weightings: what an example's squared error counts at its log-SNR."""

import dataclasses

import jax
import jax.numpy as jnp

from diffusion_jax.process.predictions import LOG_SNR_LIMIT, Prediction
from diffusion_jax.validation import Checked, number


@dataclasses.dataclass(frozen=True)
class Weighting(Checked):
    """Base of the weightings: what an example's squared error counts at its log-SNR."""

    def __call__(self, prediction: Prediction, log_snr: jax.Array) -> jax.Array:
        """Weight of the squared error of the network's output, shaped like `log_snr`, finite everywhere."""
        log_snr = jnp.clip(log_snr, -LOG_SNR_LIMIT, LOG_SNR_LIMIT)
        return self.of_x0(log_snr) * prediction.x0_gain(log_snr) ** 2

    def of_x0(self, log_snr: jax.Array) -> jax.Array:
        """Weight of the squared error of x0, at a finite log-SNR."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Uniform(Weighting):
    """1 on the output's own squared error: the simple loss (Ho et al. 2020, Eq. 14)."""

    def __call__(self, prediction, log_snr):
        return jnp.ones_like(log_snr)


@dataclasses.dataclass(frozen=True)
class MinSNR(Weighting):
    """min(SNR, gamma) on x0's squared error, whatever is predicted (Hang et al. 2023, Sec. 3.4)."""

    gamma: float = dataclasses.field(default=5.0, metadata=number("(0, inf)"))

    def of_x0(self, log_snr):
        return jnp.minimum(jnp.exp(log_snr), self.gamma)


@dataclasses.dataclass(frozen=True)
class EDM(Weighting):
    """(s^2 + d^2)/(s d)^2 on x0's squared error (Karras et al. 2022, Table 1).

    With s = sigma/alpha and d = `sigma_data`.
    """

    sigma_data: float = dataclasses.field(default=0.5, metadata=number("(0, inf)"))

    def of_x0(self, log_snr):
        return jnp.exp(log_snr) + self.sigma_data**-2


@dataclasses.dataclass(frozen=True)
class Sigmoid(Weighting):
    """sigmoid(bias - log_snr) on the noise's squared error (Kingma and Gao 2023; Hoogeboom et al. 2024).

    The weight of an error, not of a log-SNR: how often each log-SNR is drawn, which the papers carry
    as -d(log_snr)/dt, is left to the times and the schedule.
    """

    bias: float = dataclasses.field(default=0.0, metadata=number())

    def of_x0(self, log_snr):
        return jnp.exp(log_snr) * jax.nn.sigmoid(self.bias - log_snr)
