"""Prediction types: the quantity that a network outputs, and its conversion to the pair (x0, eps).

A prediction type is a frozen dataclass. `denoised` converts the network's output to (x0, eps), `target` returns the
output of a perfect network, and `x0_gain` is the factor from an error of the output to the error of x0, from which any
weighting of the loss follows. With x_t = alpha x0 + sigma eps, alpha and sigma are shaped to multiply x_t,
[B, 1, 1, 1] or scalar.

To add a prediction type, subclass `Prediction`; nothing else changes.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from diffusion_jax.process.schedules import Schedule
from diffusion_jax.pytrees import register_dataclass
from diffusion_jax.validation import Checked, number

__all__ = ["X0", "Denoised", "Eps", "Preconditioned", "Prediction", "V", "Velocity", "split_variance"]

# In float32 an SNR of e^30 is as good as infinite; with the log-SNR clipped there, the gains stay finite.
LOG_SNR_LIMIT = 30.0

# eps -> x0 multiplies the network's error by sigma/alpha: 157 for the linear schedule, 20 291 for
# the cosine. Beyond a million, x0 is lost in float32.
_MAX_EPS_GAIN = 1e6


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Denoised:
    """A network's estimate of both parts of x_t = alpha x0 + sigma eps, each shaped like x_t.

    A wrapper that changes x0 or eps keeps the rest with `dataclasses.replace`.

    Attributes:
      x0: the clean image.
      eps: the noise.
      variance_fraction: where the log variance of the reverse step lies between the posterior's (0) and the
        forward step's (1) (Nichol and Dhariwal 2021, Eq. 15); None for a network that does not learn it.

    >>> here = dj.Denoised(x0=jnp.zeros((2, 8, 8, 3)), eps=jnp.ones((2, 8, 8, 3)))
    >>> here.x0.shape
    (2, 8, 8, 3)
    """

    x0: jax.Array
    eps: jax.Array
    variance_fraction: jax.Array | None = None


def split_variance(output: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array | None]:
    """Splits a network's output for images of `shape` into (prediction, variance fraction or None).

    The second half of twice the channels is f in [-1, 1]; the fraction is (f + 1)/2. Raises ValueError if
    the output has neither that shape nor twice its channels, because it would broadcast.

    >>> prediction, fraction = dj.predictions.split_variance(jnp.ones((2, 8, 8, 6)), (2, 8, 8, 3))
    >>> prediction.shape, fraction.max().item()
    ((2, 8, 8, 3), 1.0)
    """
    if output.shape == tuple(shape):
        return output, None
    if output.shape != (*shape[:-1], 2 * shape[-1]):
        raise ValueError(f"the network maps images of shape {shape} to {output.shape}: must be the same shape")
    prediction, f = jnp.split(output, 2, axis=-1)
    return prediction, (f + 1) / 2


@dataclasses.dataclass(frozen=True)
class Prediction(Checked):
    """Base of the prediction types, whose network receives x_t and t unchanged.

    >>> class NegativeEps(dj.predictions.Prediction):
    ...     def denoised(self, output, x_t, alpha, sigma):
    ...         return dj.Denoised((x_t + sigma * output) / alpha, -output)
    ...
    ...     def target(self, x0, eps, alpha, sigma):
    ...         return -eps
    ...
    ...     def x0_gain(self, log_snr):
    ...         return jnp.exp(-jnp.asarray(log_snr) / 2)
    >>> NegativeEps().target(0.25, 0.5, 0.8, 0.6)
    -0.5
    """

    def check(self, schedule: Schedule) -> None:
        """Raises ValueError if this prediction cannot be used with `schedule`."""

    def network_input(self, x_t: jax.Array, alpha: jax.Array, sigma: jax.Array) -> jax.Array:
        """Returns the image that the network receives."""
        return x_t

    def network_time(self, schedule: Schedule, t: jax.Array) -> jax.Array:
        """Returns the number that the network receives for the noise level."""
        return t

    def denoised(self, output: jax.Array, x_t: jax.Array, alpha: jax.Array, sigma: jax.Array) -> Denoised:
        """Returns (x0, eps) from the network's output; alpha x0 + sigma eps = x_t holds."""
        raise NotImplementedError

    def target(self, x0: jax.Array, eps: jax.Array, alpha: jax.Array, sigma: jax.Array) -> jax.Array:
        """Returns the output of a perfect network."""
        raise NotImplementedError

    def x0_gain(self, log_snr: ArrayLike) -> jax.Array:
        """Returns |d x0 / d output| at a log-SNR: an error e of the output is an error x0_gain * e of x0."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Eps(Prediction):
    """The noise eps (Ho et al. 2020, Eq. 14). x0 = (x_t - sigma eps)/alpha.

    Cannot be used with zero terminal SNR, where eps does not determine x0.

    >>> dj.predictions.Eps().target(x0=0.25, eps=0.5, alpha=0.8, sigma=0.6)
    0.5
    """

    def check(self, schedule: Schedule) -> None:
        """Raises ValueError for a schedule whose terminal SNR is zero, where eps does not determine x0."""
        with jax.ensure_compile_time_eval():
            alpha, sigma = float(schedule.alpha(1.0)), float(schedule.sigma(1.0))
        name = type(schedule).__name__
        if alpha * _MAX_EPS_GAIN < sigma:
            raise ValueError(f"Eps cannot be used with {name}: alpha(1) = {alpha:.3g} hides x0; use V, X0 or Velocity")

    def denoised(self, output, x_t, alpha, sigma) -> Denoised:
        return Denoised((x_t - sigma * output) / alpha, output)

    def target(self, x0, eps, alpha, sigma) -> jax.Array:
        return eps

    def x0_gain(self, log_snr: ArrayLike) -> jax.Array:
        return jnp.exp(-_clip_log_snr(log_snr) / 2)  # sigma / alpha


@dataclasses.dataclass(frozen=True)
class X0(Prediction):
    """The clean image x0. eps = (x_t - alpha x0)/sigma.

    >>> dj.predictions.X0().target(x0=0.25, eps=0.5, alpha=0.8, sigma=0.6)
    0.25
    """

    def denoised(self, output, x_t, alpha, sigma) -> Denoised:
        return Denoised(output, (x_t - alpha * output) / sigma)

    def target(self, x0, eps, alpha, sigma) -> jax.Array:
        return x0

    def x0_gain(self, log_snr: ArrayLike) -> jax.Array:
        return jnp.ones_like(_clip_log_snr(log_snr))


@dataclasses.dataclass(frozen=True)
class V(Prediction):
    """v = alpha eps - sigma x0 (Salimans and Ho 2022, App. D), the angle's derivative of x_t.

    On a schedule that is not variance preserving both factors are divided by
    rho = sqrt(alpha^2 + sigma^2), so that v has the scale of x0 and eps.

    >>> dj.predictions.V().target(x0=0.25, eps=0.5, alpha=1.0, sigma=0.0).item()
    0.5
    """

    def denoised(self, output, x_t, alpha, sigma) -> Denoised:
        rho2 = alpha**2 + sigma**2
        v = jnp.sqrt(rho2) * output
        return Denoised((alpha * x_t - sigma * v) / rho2, (sigma * x_t + alpha * v) / rho2)

    def target(self, x0, eps, alpha, sigma) -> jax.Array:
        return (alpha * eps - sigma * x0) / jnp.sqrt(alpha**2 + sigma**2)

    def x0_gain(self, log_snr: ArrayLike) -> jax.Array:
        return jnp.sqrt(jax.nn.sigmoid(-_clip_log_snr(log_snr)))  # sigma / rho


@dataclasses.dataclass(frozen=True)
class Velocity(Prediction):
    """eps - x0, the velocity dx_t/dt of a rectified flow (Liu et al. 2022, Eq. 1).

    On other schedules it is the same difference u: x0 = (x_t - sigma u)/(alpha + sigma).

    >>> dj.predictions.Velocity().target(x0=0.25, eps=0.5, alpha=0.5, sigma=0.5)
    0.25
    """

    def denoised(self, output, x_t, alpha, sigma) -> Denoised:
        total = alpha + sigma
        return Denoised((x_t - sigma * output) / total, (x_t + alpha * output) / total)

    def target(self, x0, eps, alpha, sigma) -> jax.Array:
        return eps - x0

    def x0_gain(self, log_snr: ArrayLike) -> jax.Array:
        return jax.nn.sigmoid(-_clip_log_snr(log_snr) / 2)  # sigma / (alpha + sigma)


@dataclasses.dataclass(frozen=True)
class Preconditioned(Prediction):
    """EDM's preconditioning: x0 = c_skip x + c_out F(c_in x; c_noise) (Karras et al. 2022, Eq. 7).

    With x = x_t/alpha and its noise-to-signal ratio sigma/alpha in place of EDM's sigma (their
    Table 1), so that it applies to every schedule.

    Attributes:
      sigma_data: std of the images in [-1, 1].

    >>> dj.predictions.Preconditioned(sigma_data=0.5).target(x0=0.25, eps=0.5, alpha=1.0, sigma=0.0).item()
    -0.5
    """

    sigma_data: float = dataclasses.field(default=0.5, metadata=number("(0, inf)"))

    def network_input(self, x_t: jax.Array, alpha: jax.Array, sigma: jax.Array) -> jax.Array:
        return x_t / self._std(alpha, sigma)  # c_in x

    def network_time(self, schedule: Schedule, t: jax.Array) -> jax.Array:
        return -_clip_log_snr(schedule.log_snr(t)) / 8  # c_noise = log(sigma / alpha) / 4

    def denoised(self, output, x_t, alpha, sigma) -> Denoised:
        std, sigma_data = self._std(alpha, sigma), self.sigma_data
        x0 = (alpha * sigma_data**2 / std * x_t + sigma * sigma_data * output) / std
        return Denoised(x0, (sigma / std * x_t - alpha * sigma_data * output) / std)

    def target(self, x0, eps, alpha, sigma) -> jax.Array:
        # (x0 - c_skip x)/c_out with the common factor sigma cancelled: finite at sigma = 0.
        return (sigma / self.sigma_data * x0 - alpha * self.sigma_data * eps) / self._std(alpha, sigma)

    def x0_gain(self, log_snr: ArrayLike) -> jax.Array:
        nsr = jnp.exp(-_clip_log_snr(log_snr) / 2)
        return nsr * self.sigma_data / jnp.sqrt(nsr**2 + self.sigma_data**2)  # c_out

    def _std(self, alpha: jax.Array, sigma: jax.Array) -> jax.Array:
        """The std of x_t."""
        return jnp.sqrt(sigma**2 + (alpha * self.sigma_data) ** 2)


def _clip_log_snr(log_snr: ArrayLike) -> jax.Array:
    return jnp.clip(jnp.asarray(log_snr, jnp.float32), -LOG_SNR_LIMIT, LOG_SNR_LIMIT)


def __dir__() -> list[str]:
    return __all__
