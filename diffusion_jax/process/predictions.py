"""What a network predicts, and the way from there to the pair (x0, eps) that everything else uses.

A prediction type is a frozen dataclass. `denoised` turns the network's output into (x0, eps),
`target` gives the output that a perfect network would have, and `x0_gain` says by how much an
error of the output is an error of x0, from which any weighting of the loss follows. With
x_t = alpha x0 + sigma eps, alpha and sigma arrive shaped to multiply x_t, [B, 1, 1, 1] or scalar.

To add one, subclass `Prediction`. Nothing else has to know.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from diffusion_jax.process.schedules import Schedule
from diffusion_jax.validation import Checked, number

__all__ = ["X0", "Denoised", "Eps", "Preconditioned", "Prediction", "V", "Velocity", "split_variance"]

# float32 cannot tell an SNR of e^30 from infinity; clipped there, the gains stay finite at both ends.
LOG_SNR_LIMIT = 30.0

# eps -> x0 multiplies the network's error by sigma/alpha: 157 for the linear schedule, 20 291 for
# the cosine. Past a million, x0 is lost in float32.
_LARGEST_EPS_GAIN = 1e6


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Denoised:
    """A network's estimate of both parts of x_t = alpha x0 + sigma eps, each shaped like x_t.

    A wrapper that changes x0 or eps keeps the rest with `dataclasses.replace`.

    Attributes:
      x0: the clean image.
      eps: the noise.
      variance_fraction: where the log variance of the reverse step lies between the posterior's (0) and the
        forward step's (1) (Nichol and Dhariwal 2021, Eq. 15); None for a network that does not learn it.
    """

    x0: jax.Array
    eps: jax.Array
    variance_fraction: jax.Array | None = None


def split_variance(output: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array | None]:
    """Splits a network's output for images of `shape` into (prediction, variance fraction or None).

    The second half of twice the channels is f in [-1, 1]; the fraction is (f + 1)/2. Raises ValueError if
    the output has neither that shape nor twice its channels, because it would broadcast.
    """
    if output.shape == tuple(shape):
        return output, None
    if output.shape != (*shape[:-1], 2 * shape[-1]):
        raise ValueError(f"the network maps images of shape {shape} to {output.shape}: must be the same shape")
    prediction, f = jnp.split(output, 2, axis=-1)
    return prediction, (f + 1) / 2


@dataclasses.dataclass(frozen=True)
class Prediction(Checked):
    """Base of the prediction types: the network sees x_t and t as they are."""

    def check(self, schedule: Schedule) -> None:
        """Raises ValueError where this prediction cannot work with `schedule`."""

    def network_input(self, x_t: jax.Array, alpha: jax.Array, sigma: jax.Array) -> jax.Array:
        """The picture that the network sees."""
        return x_t

    def network_time(self, schedule: Schedule, t: jax.Array) -> jax.Array:
        """The number that tells the network the noise level."""
        return t

    def denoised(self, output: jax.Array, x_t: jax.Array, alpha: jax.Array, sigma: jax.Array) -> Denoised:
        """(x0, eps) from the network's output; alpha x0 + sigma eps = x_t holds."""
        raise NotImplementedError

    def target(self, x0: jax.Array, eps: jax.Array, alpha: jax.Array, sigma: jax.Array) -> jax.Array:
        """The output of a perfect network."""
        raise NotImplementedError

    def x0_gain(self, log_snr: ArrayLike) -> jax.Array:
        """|d x0 / d output| at a log-SNR: an error e of the output is an error x0_gain * e of x0."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Eps(Prediction):
    """The noise itself (Ho et al. 2020, Eq. 14). x0 = (x_t - sigma eps)/alpha."""

    def check(self, schedule: Schedule) -> None:
        """Raises ValueError on a schedule whose terminal SNR is zero: there eps says nothing of x0."""
        with jax.ensure_compile_time_eval():
            alpha, sigma = float(schedule.alpha(1.0)), float(schedule.sigma(1.0))
        if alpha * _LARGEST_EPS_GAIN < sigma:
            raise ValueError(
                f"prediction Eps cannot be used with {type(schedule).__name__}: alpha(1) = {alpha:.3g}, "
                "so x0 cannot be had from eps at t = 1; use V, X0 or Velocity"
            )

    def denoised(self, output, x_t, alpha, sigma) -> Denoised:
        return Denoised((x_t - sigma * output) / alpha, output)

    def target(self, x0, eps, alpha, sigma) -> jax.Array:
        return eps

    def x0_gain(self, log_snr: ArrayLike) -> jax.Array:
        return jnp.exp(-_limited(log_snr) / 2)  # sigma / alpha


@dataclasses.dataclass(frozen=True)
class X0(Prediction):
    """The clean picture. eps = (x_t - alpha x0)/sigma."""

    def denoised(self, output, x_t, alpha, sigma) -> Denoised:
        return Denoised(output, (x_t - alpha * output) / sigma)

    def target(self, x0, eps, alpha, sigma) -> jax.Array:
        return x0

    def x0_gain(self, log_snr: ArrayLike) -> jax.Array:
        return jnp.ones_like(_limited(log_snr))


@dataclasses.dataclass(frozen=True)
class V(Prediction):
    """v = alpha eps - sigma x0 (Salimans and Ho 2022, App. D), the angle's derivative of x_t.

    On a schedule that is not variance preserving both factors are divided by
    rho = sqrt(alpha^2 + sigma^2), which keeps v's scale that of x0 and eps.
    """

    def denoised(self, output, x_t, alpha, sigma) -> Denoised:
        rho2 = alpha**2 + sigma**2
        v = jnp.sqrt(rho2) * output
        return Denoised((alpha * x_t - sigma * v) / rho2, (sigma * x_t + alpha * v) / rho2)

    def target(self, x0, eps, alpha, sigma) -> jax.Array:
        return (alpha * eps - sigma * x0) / jnp.sqrt(alpha**2 + sigma**2)

    def x0_gain(self, log_snr: ArrayLike) -> jax.Array:
        return jnp.sqrt(jax.nn.sigmoid(-_limited(log_snr)))  # sigma / rho


@dataclasses.dataclass(frozen=True)
class Velocity(Prediction):
    """eps - x0, the velocity dx_t/dt of a rectified flow (Liu et al. 2022, Eq. 1).

    On any other schedule it is the same difference: x0 = (x_t - sigma u)/(alpha + sigma).
    """

    def denoised(self, output, x_t, alpha, sigma) -> Denoised:
        total = alpha + sigma
        return Denoised((x_t - sigma * output) / total, (x_t + alpha * output) / total)

    def target(self, x0, eps, alpha, sigma) -> jax.Array:
        return eps - x0

    def x0_gain(self, log_snr: ArrayLike) -> jax.Array:
        return jax.nn.sigmoid(-_limited(log_snr) / 2)  # sigma / (alpha + sigma)


@dataclasses.dataclass(frozen=True)
class Preconditioned(Prediction):
    """EDM's preconditioning: x0 = c_skip x + c_out F(c_in x; c_noise) (Karras et al. 2022, Eq. 7).

    With x = x_t/alpha and its noise-to-signal ratio sigma/alpha in the place of EDM's sigma (their
    Table 1), so that it serves every schedule; `sigma_data` is the standard deviation of the
    pictures in [-1, 1].
    """

    sigma_data: float = dataclasses.field(default=0.5, metadata=number("(0, inf)"))

    def network_input(self, x_t: jax.Array, alpha: jax.Array, sigma: jax.Array) -> jax.Array:
        return x_t / self._std(alpha, sigma)  # c_in x

    def network_time(self, schedule: Schedule, t: jax.Array) -> jax.Array:
        return -_limited(schedule.log_snr(t)) / 8  # c_noise = log(sigma / alpha) / 4

    def denoised(self, output, x_t, alpha, sigma) -> Denoised:
        std, sigma_data = self._std(alpha, sigma), self.sigma_data
        x0 = (alpha * sigma_data**2 / std * x_t + sigma * sigma_data * output) / std
        return Denoised(x0, (sigma / std * x_t - alpha * sigma_data * output) / std)

    def target(self, x0, eps, alpha, sigma) -> jax.Array:
        # (x0 - c_skip x)/c_out with the common factor sigma cancelled: finite at sigma = 0.
        return (sigma / self.sigma_data * x0 - alpha * self.sigma_data * eps) / self._std(alpha, sigma)

    def x0_gain(self, log_snr: ArrayLike) -> jax.Array:
        nsr = jnp.exp(-_limited(log_snr) / 2)
        return nsr * self.sigma_data / jnp.sqrt(nsr**2 + self.sigma_data**2)  # c_out

    def _std(self, alpha: jax.Array, sigma: jax.Array) -> jax.Array:
        """Standard deviation of x_t."""
        return jnp.sqrt(sigma**2 + (alpha * self.sigma_data) ** 2)


def _limited(log_snr: ArrayLike) -> jax.Array:
    return jnp.clip(jnp.asarray(log_snr, jnp.float32), -LOG_SNR_LIMIT, LOG_SNR_LIMIT)


def __dir__() -> list[str]:
    return __all__
