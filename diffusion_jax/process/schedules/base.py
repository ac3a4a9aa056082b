"""Noise schedules: alpha(t) and sigma(t) in x_t = alpha(t) x0 + sigma(t) eps, t = 0 (data) to t = 1 (noise)."""

import abc
import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from diffusion_jax.validation import Checked

__all__ = ["MAX_STEPS", "ON_THE_GRID", "Schedule", "as_float32", "check_discrete"]

# A float32 time k/T times T differs from k by up to 6e-4 at T = 10 000, the most that is allowed. Within
# this fraction of a step the table's entry is used without interpolation: at the end of a cosine one step is a
# factor of 1000.
ON_THE_GRID = 1e-3
MAX_STEPS = 10_000


@dataclasses.dataclass(frozen=True)
class Schedule(Checked, abc.ABC):
    """Base of the noise schedules. Variance preserving unless `scales` is overridden.

    >>> class Linear(dj.schedules.Schedule):
    ...     def log_snr(self, t):
    ...         return 20 - 40 * jnp.asarray(t, jnp.float32)
    ...
    ...     def time(self, log_snr):
    ...         return (20 - jnp.asarray(log_snr, jnp.float32)) / 40
    >>> (Linear().sigma(0.5) ** 2).round(3).item()
    0.5
    """

    @property
    def steps(self) -> int | None:
        """Number of steps T of a discrete schedule, None for a continuous one."""
        return None

    @abc.abstractmethod
    def log_snr(self, t: ArrayLike) -> jax.Array:
        """Returns log(alpha^2 / sigma^2) at time t, strictly decreasing; +inf where sigma is 0."""

    @abc.abstractmethod
    def time(self, log_snr: ArrayLike) -> jax.Array:
        """Returns the inverse of `log_snr`, clipped to [0, 1]."""

    def scales(self, log_snr: ArrayLike) -> tuple[jax.Array, jax.Array]:
        """Returns (alpha, sigma) at a log-SNR. Variance preserving: sigma^2 = sigmoid(-log_snr)."""
        log_snr = as_float32(log_snr)
        return jnp.sqrt(jax.nn.sigmoid(log_snr)), jnp.sqrt(jax.nn.sigmoid(-log_snr))

    def alpha(self, t: ArrayLike) -> jax.Array:
        """Returns the factor of x0 in x_t, the square root of DDPM's alpha-bar."""
        return self.scales(self.log_snr(t))[0]

    def sigma(self, t: ArrayLike) -> jax.Array:
        """Returns the factor of eps in x_t."""
        return self.scales(self.log_snr(t))[1]

    def round(self, t: ArrayLike) -> jax.Array:
        """Returns the next time at or after t that a network of this schedule is trained on.

        A continuous schedule trains on every time; a discrete one on k/T, k = 1..T.
        """
        t = as_float32(t)
        if self.steps is None:
            return t
        return jnp.clip(jnp.ceil(t * self.steps - ON_THE_GRID), 1, self.steps) / self.steps


def check_discrete(user: str, schedule: Schedule) -> int:
    """Returns the number of steps. Raises ValueError for a continuous schedule, which `user` cannot be used with.

    >>> check_discrete("the bound", dj.schedules.RectifiedFlow())
    Traceback (most recent call last):
    ...
    ValueError: the bound cannot be used with RectifiedFlow, which is continuous; use a discrete one such as Cosine
    """
    if schedule.steps is None:
        found = f"{type(schedule).__name__}, which is continuous"
        raise ValueError(f"{user} cannot be used with {found}; use a discrete one such as Cosine")
    return schedule.steps


def as_float32(x: ArrayLike) -> jax.Array:
    """Returns x as a float32 array.

    >>> as_float32(1).dtype
    dtype('float32')
    """
    return jnp.asarray(x, jnp.float32)
