"""Continuous schedules: log-SNR as a function of a real time."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from diffusion_jax.process.schedules.base import Schedule, as_float32
from diffusion_jax.validation import below, number

__all__ = ["Karras", "RectifiedFlow"]

# Below this time Karras' schedule is a straight line to sigma(0) = 0.
_KARRAS_LINEAR = 1e-3


@dataclasses.dataclass(frozen=True)
class RectifiedFlow(Schedule):
    """alpha = 1 - t, sigma = t: straight lines from data to noise (Liu et al. 2022, Eq. 1).

    Use a prediction other than `Eps`, because alpha(1) = 0.

    >>> schedule = dj.schedules.RectifiedFlow()
    >>> schedule.alpha(0.25).item(), schedule.sigma(0.25).item()
    (0.75, 0.25)
    """

    def log_snr(self, t: ArrayLike) -> jax.Array:
        t = as_float32(t)
        return 2 * (jnp.log1p(-t) - jnp.log(t))

    def time(self, log_snr: ArrayLike) -> jax.Array:
        return jax.nn.sigmoid(-as_float32(log_snr) / 2)

    def scales(self, log_snr: ArrayLike) -> tuple[jax.Array, jax.Array]:
        half = as_float32(log_snr) / 2
        return jax.nn.sigmoid(half), jax.nn.sigmoid(-half)

    def alpha(self, t: ArrayLike) -> jax.Array:
        return 1 - as_float32(t)

    def sigma(self, t: ArrayLike) -> jax.Array:
        return as_float32(t)


@dataclasses.dataclass(frozen=True)
class Karras(Schedule):
    """alpha = 1; sigma^(1/rho) linear in t from sigma_min to sigma_max (Karras et al. 2022, Eq. 5).

    EDM appends sigma = 0 below sigma_min; here sigma falls from sigma_min to 0 linearly over the first
    thousandth of the time, so that t = 0 is data as in every schedule. `grids.Karras` makes EDM's
    own steps. Train with `predictions.Preconditioned`, which scales the network's input.

    Attributes:
      sigma_min: smallest noise level, at t = 0.001.
      sigma_max: largest noise level, at t = 1.
      rho: exponent; larger values spend more of the time at low noise levels.

    >>> dj.schedules.Karras().sigma(jnp.array([0.0, 1.0])).round(3).tolist()
    [0.0, 80.0]
    """

    sigma_min: float = dataclasses.field(default=0.002, metadata=number("(0, inf)") | below("sigma_max"))
    sigma_max: float = dataclasses.field(default=80.0, metadata=number("(0, inf)"))
    rho: float = dataclasses.field(default=7.0, metadata=number("(0, inf)"))

    @property
    def _ends(self) -> tuple[float, float]:
        return self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)

    def alpha(self, t: ArrayLike) -> jax.Array:
        return jnp.ones_like(as_float32(t))

    def sigma(self, t: ArrayLike) -> jax.Array:
        t = as_float32(t)
        low, high = self._ends
        u = jnp.maximum(t - _KARRAS_LINEAR, 0) / (1 - _KARRAS_LINEAR)
        ramp = (low + u * (high - low)) ** self.rho
        return jnp.where(t < _KARRAS_LINEAR, self.sigma_min * t / _KARRAS_LINEAR, ramp)

    def log_snr(self, t: ArrayLike) -> jax.Array:
        return -2 * jnp.log(self.sigma(t))

    def time(self, log_snr: ArrayLike) -> jax.Array:
        sigma = self.scales(log_snr)[1]
        low, high = self._ends
        u = (jnp.maximum(sigma, self.sigma_min) ** (1 / self.rho) - low) / (high - low)
        ramp = _KARRAS_LINEAR + (1 - _KARRAS_LINEAR) * jnp.clip(u, 0.0, 1.0)
        return jnp.where(sigma < self.sigma_min, _KARRAS_LINEAR * sigma / self.sigma_min, ramp)

    def scales(self, log_snr: ArrayLike) -> tuple[jax.Array, jax.Array]:
        log_snr = as_float32(log_snr)
        return jnp.ones_like(log_snr), jnp.exp(-log_snr / 2)
