"""The training loss: which times, which noise, what weight.

`DiffusionLoss` draws (t, eps, label drop) for a batch and compares the network's output with its target.
The times and the weightings are frozen dataclasses of their own; to add one, subclass `Times` or
`Weighting`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffusion_jax.process import forward
from diffusion_jax.process.predictions import LOG_SNR_LIMIT, Prediction
from diffusion_jax.process.schedules import Schedule

NO_LABEL = -1  # what a network takes for "no class"


@dataclasses.dataclass(frozen=True)
class Times:
    """Base of the distributions of training times."""

    def draw(self, key: jax.Array, schedule: Schedule, n: int) -> jax.Array:
        """n times in [0, 1], float32 [n]."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class UniformTimes(Times):
    """Independent uniform times (Ho et al. 2020, Alg. 1)."""

    def draw(self, key, schedule, n):
        return jax.random.uniform(key, (n,))


@dataclasses.dataclass(frozen=True)
class StratifiedTimes(Times):
    """t_i = (u + i/n) mod 1 with one uniform u, in random order (Kingma et al. 2021, App. I.1).

    Each n-th part of [0, 1] gets one time, each time by itself is uniform.
    """

    def draw(self, key, schedule, n):
        offset_key, order_key = jax.random.split(key)
        row = (jax.random.uniform(offset_key) + jnp.arange(n) / n) % 1.0
        return jax.random.permutation(order_key, row)


@dataclasses.dataclass(frozen=True)
class LogNormalTimes(Times):
    """log(sigma/alpha) normal with `mean` and `std` (Karras et al. 2022, Table 1).

    Clipped to what the schedule has.
    """

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self):
        if not self.std > 0:
            raise ValueError(f"std = {self.std}: must be positive")

    def draw(self, key, schedule, n):
        log_nsr = self.mean + self.std * jax.random.normal(key, (n,))
        return schedule.time(-2 * log_nsr)


@dataclasses.dataclass(frozen=True)
class Weighting:
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

    gamma: float = 5.0

    def __post_init__(self):
        if not self.gamma > 0:
            raise ValueError(f"gamma = {self.gamma}: must be positive")

    def of_x0(self, log_snr):
        return jnp.minimum(jnp.exp(log_snr), self.gamma)


@dataclasses.dataclass(frozen=True)
class EDM(Weighting):
    """(s^2 + d^2)/(s d)^2 on x0's squared error (Karras et al. 2022, Table 1).

    With s = sigma/alpha and d = `sigma_data`.
    """

    sigma_data: float = 0.5

    def __post_init__(self):
        if not self.sigma_data > 0:
            raise ValueError(f"sigma_data = {self.sigma_data}: must be positive")

    def of_x0(self, log_snr):
        return jnp.exp(log_snr) + self.sigma_data**-2


@dataclasses.dataclass(frozen=True)
class Sigmoid(Weighting):
    """sigmoid(bias - log_snr) on the noise's squared error (Kingma and Gao 2023; Hoogeboom et al. 2024).

    The weight of an error, not of a log-SNR: how often each log-SNR is drawn, which the papers carry
    as -d(log_snr)/dt, is left to the times and the schedule.
    """

    bias: float = 0.0

    def of_x0(self, log_snr):
        return jnp.exp(log_snr) * jax.nn.sigmoid(self.bias - log_snr)


class Examples(NamedTuple):
    """Pictures at their drawn noise levels: all randomness of a training step but dropout."""

    x0: jax.Array  # [B, H, W, C] in [-1, 1]
    labels: jax.Array | None  # [B], NO_LABEL where dropped
    t: jax.Array  # [B]
    eps: jax.Array  # [B, H, W, C]


@dataclasses.dataclass(frozen=True)
class Loss:
    """Base of the losses: draw all randomness for a batch, then the loss of each example."""

    def draw(self, key: jax.Array, batch: dict[str, jax.Array]) -> Examples:
        raise NotImplementedError

    def per_example(
        self, apply: Callable[..., jax.Array], params: Any, examples: Examples, **kwargs: Any
    ) -> jax.Array:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class DiffusionLoss(Loss):
    """weight(t) * mean over pixels of (output - target)^2, per example.

    Attributes:
      schedule, prediction: what the network learns; refused where they don't go together.
      weighting: weight of the squared error by log-SNR.
      times: how training times are drawn; a discrete schedule rounds them up to k/T.
      label_drop: probability that an example is trained without its label (Ho and Salimans 2022,
        Alg. 1), which classifier-free guidance needs.
    """

    schedule: Schedule
    prediction: Prediction
    weighting: Weighting = Uniform()
    times: Times = StratifiedTimes()
    label_drop: float = 0.1

    def __post_init__(self):
        if not 0 <= self.label_drop <= 1:
            raise ValueError(f"label_drop = {self.label_drop}: must be in [0, 1]")
        self.prediction.check(self.schedule)

    def draw(self, key: jax.Array, batch: dict[str, jax.Array]) -> Examples:
        """Examples from a batch of "image", uint8 or float32 in [-1, 1], and, if any, "label" [B]."""
        x0 = to_float(batch["image"])
        time_key, noise_key, drop_key = jax.random.split(key, 3)
        t = self.schedule.round(self.times.draw(time_key, self.schedule, len(x0)))
        labels = batch.get("label")
        if labels is not None:
            dropped = jax.random.bernoulli(drop_key, self.label_drop, labels.shape)
            labels = jnp.where(dropped, NO_LABEL, labels)
        return Examples(x0, labels, t, jax.random.normal(noise_key, x0.shape))

    def per_example(
        self, apply: Callable[..., jax.Array], params: Any, examples: Examples, **kwargs: Any
    ) -> jax.Array:
        """The loss of each example, [B]; `kwargs` go to apply(params, x, time, labels, **kwargs)."""
        x0, labels, t, eps = examples
        alpha = forward.expand(self.schedule.alpha(t), x0)
        sigma = forward.expand(self.schedule.sigma(t), x0)
        x = self.prediction.network_input(alpha * x0 + sigma * eps, alpha, sigma)
        time = self.prediction.network_time(self.schedule, t)
        output = apply(params, x, time, labels, **kwargs)
        if output.shape != x0.shape:  # it would broadcast, and seem to learn
            raise ValueError(f"the network makes {output.shape} of pictures {x0.shape}: need the same shape")
        error = output - self.prediction.target(x0, eps, alpha, sigma)
        squared = jnp.mean(error**2, axis=tuple(range(1, x0.ndim)))
        return self.weighting(self.prediction, self.schedule.log_snr(t)) * squared


def to_float(images: jax.Array) -> jax.Array:
    """uint8 pictures as float32 in [-1, 1]; floating ones as they are."""
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 127.5 - 1.0
    return images.astype(jnp.float32)
