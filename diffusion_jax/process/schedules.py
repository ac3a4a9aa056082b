"""Noise schedules: alpha(t) and sigma(t) in x_t = alpha(t) x0 + sigma(t) eps, t = 0 (data) to t = 1 (noise).

Every schedule is a frozen dataclass with four functions of the time: `alpha`, `sigma`, `log_snr` and
`time`, the inverse of `log_snr`, where log_snr = 2 log(alpha / sigma). Times are scalars or arrays
of any shape in [0, 1]; results are float32 of the same shape. A DDPM of T steps is a `Discrete`
schedule: its table is exact at t = k/T, k = 0..T, and abar_0 = 1.

To add one, subclass `Schedule` (give `log_snr` and `time`) or `Discrete` (give `betas`).
"""

import abc
import dataclasses
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

# A float32 time k/T times T misses k by up to 6e-4 at T = 10 000, the most that is allowed. Within
# this much of a step the table's entry is read as it stands: at the end of a cosine one step is a
# factor of 1000.
_ON_THE_GRID = 1e-3
_MOST_STEPS = 10_000


@dataclasses.dataclass(frozen=True)
class Schedule(abc.ABC):
    """A noise schedule. Variance preserving unless `scales` is overridden."""

    @property
    def steps(self) -> int | None:
        """Number of steps T of a discrete schedule, None of a continuous one."""
        return None

    @abc.abstractmethod
    def log_snr(self, t: ArrayLike) -> jax.Array:
        """log(alpha^2 / sigma^2) at time t, strictly decreasing; +inf where sigma is 0."""

    @abc.abstractmethod
    def time(self, log_snr: ArrayLike) -> jax.Array:
        """Inverse of `log_snr`, clipped to [0, 1]."""

    def scales(self, log_snr: ArrayLike) -> tuple[jax.Array, jax.Array]:
        """(alpha, sigma) at a log-SNR. Variance preserving: sigma^2 = sigmoid(-log_snr)."""
        log_snr = _f32(log_snr)
        return jnp.sqrt(jax.nn.sigmoid(log_snr)), jnp.sqrt(jax.nn.sigmoid(-log_snr))

    def alpha(self, t: ArrayLike) -> jax.Array:
        """Factor of x0 in x_t; the root of DDPM's alpha-bar."""
        return self.scales(self.log_snr(t))[0]

    def sigma(self, t: ArrayLike) -> jax.Array:
        """Factor of eps in x_t."""
        return self.scales(self.log_snr(t))[1]

    def round(self, t: ArrayLike) -> jax.Array:
        """The next time at or after t that a network of this schedule is trained on.

        A continuous schedule trains on every time; a discrete one on k/T, k = 1..T.
        """
        t = _f32(t)
        if self.steps is None:
            return t
        return jnp.clip(jnp.ceil(t * self.steps - _ON_THE_GRID), 1, self.steps) / self.steps


@dataclasses.dataclass(frozen=True)
class Discrete(Schedule):
    """A DDPM of T steps: abar_k = prod_{i<=k} (1 - beta_i) (Ho et al. 2020, Eq. 4).

    Between grid points alpha^2 and sigma^2 are linear in t, so both ends keep float32's relative
    precision, alpha^2 + sigma^2 = 1 holds and abar_T may be 0.
    """

    @abc.abstractmethod
    def betas(self) -> np.ndarray:
        """beta_1 .. beta_T in float64, [T], each in [0, 1]."""

    def abar(self) -> np.ndarray:
        """abar_0 .. abar_T in float64, [T + 1], from 1 down."""
        return self._tables[0]

    @cached_property
    def _tables(self) -> tuple[np.ndarray, np.ndarray]:
        """(alpha^2, sigma^2) at t = k/T, float64, [T + 1] each."""
        with np.errstate(divide="ignore"):
            log_abar = np.concatenate([[0.0], np.cumsum(np.log1p(-self.betas()))])
        return np.exp(log_abar), -np.expm1(log_abar)

    @property
    def steps(self) -> int:
        return len(self._tables[0]) - 1

    def _lookup(self, t: ArrayLike) -> tuple[jax.Array, jax.Array]:
        """(alpha^2, sigma^2) at t: the table's entries at k/T, linear between."""
        position = jnp.clip(_f32(t), 0.0, 1.0) * self.steps
        k = jnp.clip(jnp.floor(position + _ON_THE_GRID), 0, self.steps - 1).astype(jnp.int32)
        f = jnp.clip((position - k - _ON_THE_GRID) / (1 - 2 * _ON_THE_GRID), 0.0, 1.0)
        alpha2, sigma2 = (jnp.asarray(table, jnp.float32) for table in self._tables)
        return tuple((1 - f) * x[k] + f * x[k + 1] for x in (alpha2, sigma2))  # type: ignore[return-value]

    def alpha(self, t: ArrayLike) -> jax.Array:
        return jnp.sqrt(self._lookup(t)[0])

    def sigma(self, t: ArrayLike) -> jax.Array:
        return jnp.sqrt(self._lookup(t)[1])

    def log_snr(self, t: ArrayLike) -> jax.Array:
        alpha2, sigma2 = self._lookup(t)
        return jnp.log(alpha2) - jnp.log(sigma2)

    def time(self, log_snr: ArrayLike) -> jax.Array:
        """Inverse of `log_snr`: exact at k/T, within a thousandth of a step between."""
        # On (k, k+1): alpha2 = a_k - f d and sigma2 = s_k + f d with alpha2/sigma2 = snr, solved for f.
        log_snr = _f32(log_snr)
        alpha2, sigma2 = self._tables
        with np.errstate(divide="ignore"):
            table = np.log(alpha2) - np.log(sigma2)
        k = jnp.searchsorted(jnp.asarray(-table[1:-1], jnp.float32), -log_snr, side="right")
        a, s, d = (jnp.asarray(x, jnp.float32)[k] for x in (alpha2, sigma2, np.diff(sigma2)))
        f = (a * jax.nn.sigmoid(-log_snr) - s * jax.nn.sigmoid(log_snr)) / d
        return (k + jnp.clip(f, 0.0, 1.0)) / self.steps


@dataclasses.dataclass(frozen=True)
class LinearBeta(Discrete):
    """beta linear from `start` to `end` (Ho et al. 2020, Sec. 4), scaled by 1000/T.

    The scaling keeps abar_T where T = 1000 has it, as Nichol and Dhariwal (2021) do; it needs
    end * 1000 / T < 1, so T > 20 with the default `end`. Raises ValueError below.
    """

    steps: int = 1000
    start: float = 1e-4
    end: float = 0.02

    def __post_init__(self):
        if not 0 < self.start <= self.end:
            raise ValueError(f"start = {self.start}, end = {self.end}: need 0 < start <= end")
        _at_least_one(self.steps)
        if self.end * 1000 >= self.steps:
            raise ValueError(
                f"steps = {self.steps}: betas are scaled by 1000/steps and must stay below 1; "
                f"use more than {self.end * 1000:g} steps"
            )

    def betas(self) -> np.ndarray:
        return np.linspace(self.start, self.end, self.steps) * (1000 / self.steps)


@dataclasses.dataclass(frozen=True)
class Cosine(Discrete):
    """abar(t) = f(t)/f(0), f(t) = cos^2(pi/2 (t + offset)/(1 + offset)) (Nichol and Dhariwal 2021, Eq. 17).

    Each beta is clipped to [min_beta, max_beta]; `max_beta=1.0` leaves the curve as it is, which
    ends at alpha(1) = 0, so that eps-prediction is refused there.
    """

    steps: int = 1000
    offset: float = 0.008
    min_beta: float = 0.0
    max_beta: float = 0.999

    def __post_init__(self):
        _at_least_one(self.steps)
        if not self.offset >= 0:
            raise ValueError(f"offset = {self.offset}: must not be negative")
        if not 0 <= self.min_beta < self.max_beta <= 1:
            raise ValueError(
                f"min_beta = {self.min_beta}, max_beta = {self.max_beta}: need 0 <= min_beta < max_beta <= 1"
            )

    def betas(self) -> np.ndarray:
        t = np.arange(self.steps + 1) / self.steps
        f = np.cos(np.pi / 2 * (t + self.offset) / (1 + self.offset)) ** 2
        return np.clip(1 - f[1:] / f[:-1], self.min_beta, self.max_beta)


@dataclasses.dataclass(frozen=True)
class Sigmoid(Discrete):
    """abar(t) a falling sigmoid from `start` to `end` (Jabri et al. 2022; Chen 2023, Alg. 1).

    abar(t) = (s(end/tau) - s((t (end - start) + start)/tau)) / (s(end/tau) - s(start/tau)), s the
    logistic function and tau its temperature; each beta is clipped to `max_beta`.
    """

    steps: int = 1000
    start: float = -3.0
    end: float = 3.0
    tau: float = 1.0
    max_beta: float = 0.999

    def __post_init__(self):
        _at_least_one(self.steps)
        if not (self.start < self.end and self.tau > 0):
            raise ValueError(
                f"start = {self.start}, end = {self.end}, tau = {self.tau}: need start < end and tau > 0"
            )
        if not 0 < self.max_beta <= 1:
            raise ValueError(f"max_beta = {self.max_beta}: must be in (0, 1]")

    def betas(self) -> np.ndarray:
        t = np.arange(self.steps + 1) / self.steps
        curve = 1 / (1 + np.exp(-(t * (self.end - self.start) + self.start) / self.tau))
        abar = (curve[-1] - curve) / (curve[-1] - curve[0])
        return np.clip(1 - abar[1:] / abar[:-1], 0.0, self.max_beta)


@dataclasses.dataclass(frozen=True)
class Betas(Discrete):
    """The schedule of any given beta_1 .. beta_T, each in (0, 1]; only the last may be 1."""

    values: tuple[float, ...] = ()

    def __post_init__(self):
        values = np.asarray(self.values, np.float64)
        _at_least_one(max(1, values.size))
        if values.ndim != 1 or not len(values):
            raise ValueError("values: give at least one beta, as a flat sequence")
        bad = [b for b in values[:-1] if not 0 < b < 1] + [b for b in values[-1:] if not 0 < b <= 1]
        if bad:
            raise ValueError(f"values contain {bad[0]:g}: every beta must be in (0, 1)")
        object.__setattr__(self, "values", tuple(values.tolist()))

    def betas(self) -> np.ndarray:
        return np.asarray(self.values, np.float64)


@dataclasses.dataclass(frozen=True)
class ZeroTerminalSNR(Discrete):
    """A discrete schedule rescaled so that alpha_T = 0 exactly (Lin et al. 2024, Alg. 1).

    alpha'_k = (alpha_k - alpha_T) alpha_1 / (alpha_1 - alpha_T). Needs a prediction other than
    `Eps`: at alpha = 0 the noise says nothing of x0.
    """

    schedule: Discrete

    def __post_init__(self):
        if not isinstance(self.schedule, Discrete):
            raise ValueError(
                f"schedule = {self.schedule}: only a discrete schedule can be rescaled; "
                "use LinearBeta, Cosine, Sigmoid or Betas"
            )
        if self.schedule.steps < 2:
            raise ValueError("schedule: a single step has no terminal SNR to rescale; use steps >= 2")

    def betas(self) -> np.ndarray:
        alpha = np.sqrt(self.abar())
        return 1 - (alpha[1:] / alpha[:-1]) ** 2

    @cached_property
    def _tables(self) -> tuple[np.ndarray, np.ndarray]:
        alpha = np.sqrt(self.schedule.abar())
        rescaled = (alpha[1:] - alpha[-1]) * (alpha[1] / (alpha[1] - alpha[-1]))
        alpha2 = np.concatenate([[1.0], rescaled**2])
        return alpha2, 1 - alpha2


@dataclasses.dataclass(frozen=True)
class RectifiedFlow(Schedule):
    """alpha = 1 - t, sigma = t: straight lines from data to noise (Liu et al. 2022, Eq. 1)."""

    def log_snr(self, t: ArrayLike) -> jax.Array:
        t = _f32(t)
        return 2 * (jnp.log1p(-t) - jnp.log(t))

    def time(self, log_snr: ArrayLike) -> jax.Array:
        return jax.nn.sigmoid(-_f32(log_snr) / 2)

    def scales(self, log_snr: ArrayLike) -> tuple[jax.Array, jax.Array]:
        half = _f32(log_snr) / 2
        return jax.nn.sigmoid(half), jax.nn.sigmoid(-half)

    def alpha(self, t: ArrayLike) -> jax.Array:
        return 1 - _f32(t)

    def sigma(self, t: ArrayLike) -> jax.Array:
        return _f32(t)


# Below this time Karras' ramp gives way to a straight line to sigma(0) = 0.
_KARRAS_FOOT = 1e-3


@dataclasses.dataclass(frozen=True)
class Karras(Schedule):
    """alpha = 1; sigma^(1/rho) linear in t from sigma_min to sigma_max (Karras et al. 2022, Eq. 5).

    EDM appends sigma = 0 below sigma_min; here sigma falls to it linearly over the first
    thousandth of the time, so that t = 0 is data as in every schedule. `grids.Karras` gives EDM's
    own steps. Train it with `predictions.Preconditioned`, which scales the network's input.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self):
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(
                f"sigma_min = {self.sigma_min}, sigma_max = {self.sigma_max}: need 0 < sigma_min < sigma_max"
            )
        if not self.rho > 0:
            raise ValueError(f"rho = {self.rho}: must be positive")

    @property
    def _ends(self) -> tuple[float, float]:
        return self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)

    def alpha(self, t: ArrayLike) -> jax.Array:
        return jnp.ones_like(_f32(t))

    def sigma(self, t: ArrayLike) -> jax.Array:
        t = _f32(t)
        low, high = self._ends
        u = jnp.maximum(t - _KARRAS_FOOT, 0) / (1 - _KARRAS_FOOT)
        ramp = (low + u * (high - low)) ** self.rho
        return jnp.where(t < _KARRAS_FOOT, self.sigma_min * t / _KARRAS_FOOT, ramp)

    def log_snr(self, t: ArrayLike) -> jax.Array:
        return -2 * jnp.log(self.sigma(t))

    def time(self, log_snr: ArrayLike) -> jax.Array:
        sigma = self.scales(log_snr)[1]
        low, high = self._ends
        u = (jnp.maximum(sigma, self.sigma_min) ** (1 / self.rho) - low) / (high - low)
        ramp = _KARRAS_FOOT + (1 - _KARRAS_FOOT) * jnp.clip(u, 0.0, 1.0)
        return jnp.where(sigma < self.sigma_min, _KARRAS_FOOT * sigma / self.sigma_min, ramp)

    def scales(self, log_snr: ArrayLike) -> tuple[jax.Array, jax.Array]:
        log_snr = _f32(log_snr)
        return jnp.ones_like(log_snr), jnp.exp(-log_snr / 2)


@dataclasses.dataclass(frozen=True)
class Shifted(Schedule):
    """A schedule with its log-SNR moved by 2 log(reference/resolution) (Hoogeboom et al. 2023, Sec. 3.1).

    Larger pictures need more noise to lose the same structure: `resolution` is the side of the
    pictures at hand, `reference` the side that `schedule` was made for, both in pixels. The kind
    of schedule (variance preserving, straight, exploding) stays what it is.
    """

    schedule: Schedule
    resolution: int
    reference: int = 64

    def __post_init__(self):
        if not isinstance(self.schedule, Schedule):
            raise ValueError(f"schedule = {self.schedule!r}: must be a schedule, such as Cosine()")
        for name in ("resolution", "reference"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must be positive, in pixels")

    @property
    def shift(self) -> float:
        return 2 * float(np.log(self.reference / self.resolution))

    @property
    def steps(self) -> int | None:
        return self.schedule.steps

    def log_snr(self, t: ArrayLike) -> jax.Array:
        return self.schedule.log_snr(t) + self.shift

    def time(self, log_snr: ArrayLike) -> jax.Array:
        return self.schedule.time(_f32(log_snr) - self.shift)

    def scales(self, log_snr: ArrayLike) -> tuple[jax.Array, jax.Array]:
        return self.schedule.scales(log_snr)


def _f32(x: ArrayLike) -> jax.Array:
    return jnp.asarray(x, jnp.float32)


def _at_least_one(steps: int) -> None:
    if not isinstance(steps, int) or not 1 <= steps <= _MOST_STEPS:
        raise ValueError(f"steps = {steps}: must be a whole number from 1 to {_MOST_STEPS}")
