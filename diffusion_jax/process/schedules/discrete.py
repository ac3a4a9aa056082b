"""Discrete schedules: a DDPM of T steps, from a table of betas."""

import abc
import dataclasses
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from diffusion_jax.process.schedules.base import MAX_STEPS, ON_THE_GRID, Schedule, as_float32
from diffusion_jax.validation import below, check_integer, integer, number

__all__ = ["Betas", "Cosine", "Discrete", "LinearBeta", "Sigmoid"]


@dataclasses.dataclass(frozen=True)
class Discrete(Schedule):
    """A DDPM of T steps: abar_k = prod_{i<=k} (1 - beta_i) (Ho et al. 2020, Eq. 4).

    Between grid points alpha^2 and sigma^2 are linear in t, so both ends keep float32's relative
    precision, alpha^2 + sigma^2 = 1 holds and abar_T may be 0.

    >>> class Constant(dj.schedules.Discrete):
    ...     def betas(self):
    ...         return np.full(100, 0.5)
    >>> Constant().steps, (Constant().alpha(0.01) ** 2).round(3).item()
    (100, 0.5)
    """

    @abc.abstractmethod
    def betas(self) -> np.ndarray:
        """Returns beta_1 .. beta_T in float64, [T], each in [0, 1]."""

    def abar(self) -> np.ndarray:
        """Returns abar_0 .. abar_T in float64, [T + 1], decreasing from 1."""
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
        """(alpha^2, sigma^2) at t: the table's entries at k/T, linear in between."""
        position = jnp.clip(as_float32(t), 0.0, 1.0) * self.steps
        k = jnp.clip(jnp.floor(position + ON_THE_GRID), 0, self.steps - 1).astype(jnp.int32)
        f = jnp.clip((position - k - ON_THE_GRID) / (1 - 2 * ON_THE_GRID), 0.0, 1.0)
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
        """Returns the inverse of `log_snr`: exact at k/T, within a thousandth of a step in between."""
        # On (k, k+1): alpha2 = a_k - f d and sigma2 = s_k + f d with alpha2/sigma2 = snr, solved for f.
        log_snr = as_float32(log_snr)
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

    The scaling keeps abar_T close to its value at T = 1000, as in Nichol and Dhariwal (2021).

    Attributes:
      steps: T.
      start: the first beta, before scaling.
      end: the last beta, before scaling.

    Raises ValueError unless start <= end and end * 1000 / T < 1: T > 20 with the default `end`.

    >>> dj.schedules.LinearBeta(1000).betas()[[0, -1]].tolist()
    [0.0001, 0.02]
    """

    steps: int = dataclasses.field(default=1000, metadata=integer(1, MAX_STEPS))
    start: float = dataclasses.field(default=1e-4, metadata=number("(0, inf)"))
    end: float = dataclasses.field(default=0.02, metadata=number("(0, inf)"))

    def __post_init__(self):
        super().__post_init__()
        most = self.end * 1000
        if self.start > self.end:
            raise ValueError(f"start = {self.start}: must be at most end = {self.end}")
        if most >= self.steps:
            raise ValueError(f"steps = {self.steps}: must exceed {most:g}, because betas are scaled by 1000/steps")

    def betas(self) -> np.ndarray:
        return np.linspace(self.start, self.end, self.steps) * (1000 / self.steps)


@dataclasses.dataclass(frozen=True)
class Cosine(Discrete):
    """abar(t) = f(t)/f(0), f(t) = cos^2(pi/2 (t + offset)/(1 + offset)) (Nichol and Dhariwal 2021, Eq. 17).

    Attributes:
      steps: T.
      offset: shift of the curve, which keeps the first betas from being too small.
      min_beta: lower limit of each beta.
      max_beta: upper limit of each beta; 1.0 leaves the curve unchanged, which ends at alpha(1) = 0, so that
        eps-prediction is refused.

    >>> dj.schedules.Cosine(1000).betas()[-1].item()
    0.999
    """

    steps: int = dataclasses.field(default=1000, metadata=integer(1, MAX_STEPS))
    offset: float = dataclasses.field(default=0.008, metadata=number("[0, inf)"))
    min_beta: float = dataclasses.field(default=0.0, metadata=number("[0, 1)") | below("max_beta"))
    max_beta: float = dataclasses.field(default=0.999, metadata=number("(0, 1]"))

    def betas(self) -> np.ndarray:
        t = np.arange(self.steps + 1) / self.steps
        f = np.cos(np.pi / 2 * (t + self.offset) / (1 + self.offset)) ** 2
        return np.clip(1 - f[1:] / f[:-1], self.min_beta, self.max_beta)


@dataclasses.dataclass(frozen=True)
class Sigmoid(Discrete):
    """abar(t) is a decreasing sigmoid from `start` to `end` (Jabri et al. 2022; Chen 2023, Alg. 1).

    abar(t) = (s(end/tau) - s((t (end - start) + start)/tau)) / (s(end/tau) - s(start/tau)), with s the
    logistic function.

    Attributes:
      steps: T.
      start: argument of the sigmoid at t = 0.
      end: argument of the sigmoid at t = 1.
      tau: temperature of the sigmoid.
      max_beta: upper limit of each beta.

    >>> dj.schedules.Sigmoid(1000).abar()[500].round(3).item()
    0.5
    """

    steps: int = dataclasses.field(default=1000, metadata=integer(1, MAX_STEPS))
    start: float = dataclasses.field(default=-3.0, metadata=number() | below("end"))
    end: float = dataclasses.field(default=3.0, metadata=number())
    tau: float = dataclasses.field(default=1.0, metadata=number("(0, inf)"))
    max_beta: float = dataclasses.field(default=0.999, metadata=number("(0, 1]"))

    def betas(self) -> np.ndarray:
        t = np.arange(self.steps + 1) / self.steps
        curve = 1 / (1 + np.exp(-(t * (self.end - self.start) + self.start) / self.tau))
        abar = (curve[-1] - curve) / (curve[-1] - curve[0])
        return np.clip(1 - abar[1:] / abar[:-1], 0.0, self.max_beta)


@dataclasses.dataclass(frozen=True)
class Betas(Discrete):
    """The schedule of a list of betas.

    Attributes:
      values: beta_1 .. beta_T, each in (0, 1); the last may be 1.

    >>> dj.schedules.Betas((0.5, 0.5)).abar().round(3).tolist()
    [1.0, 0.5, 0.25]
    """

    values: tuple[float, ...] = ()

    def __post_init__(self):
        values = np.asarray(self.values, np.float64)
        if values.ndim != 1 or not len(values):
            raise ValueError(f"values has shape {values.shape}: must be a flat list of at least one beta")
        check_integer("number of values", len(values), 1, MAX_STEPS)
        bad = [b for b in values[:-1] if not 0 < b < 1] + [b for b in values[-1:] if not 0 < b <= 1]
        if bad:
            raise ValueError(f"values contains {bad[0]:g}: must be betas in (0, 1)")
        object.__setattr__(self, "values", tuple(values.tolist()))

    def betas(self) -> np.ndarray:
        return np.asarray(self.values, np.float64)
