"""Grids: the times at which a sampler stops on its way from t = 1 to t = 0.

A grid is a frozen dataclass called with (schedule, steps); it returns float64 [steps + 1], strictly decreasing, from
1 (`Leading`: from below 1) to 0. On a discrete schedule every time is some k/T, the times that its network is
trained on. To add a grid, subclass `Grid` and define `spread`.
"""

import dataclasses

import jax
import numpy as np

from diffusion_jax.process.schedules import Schedule
from diffusion_jax.validation import Checked, checked, instance, integer, number

__all__ = ["Explicit", "Grid", "Karras", "Leading", "Quadratic", "Trailing", "Uniform", "UniformLogSNR"]


@dataclasses.dataclass(frozen=True)
class Grid(Checked):
    """Base of the grids: checks the number of steps and rounds the times to a discrete schedule's table.

    >>> class Cubic(dj.grids.Grid):
    ...     def spread(self, schedule, steps):
    ...         return np.linspace(1.0, 0.0, steps + 1) ** 3
    >>> Cubic()(dj.schedules.RectifiedFlow(), 2).tolist()
    [1.0, 0.125, 0.0]
    """

    def spread(self, schedule: Schedule, steps: int) -> np.ndarray:
        """Returns the wanted times, [steps + 1], from 1 down to 0."""
        raise NotImplementedError

    @checked(steps=integer(1))
    def __call__(self, schedule: Schedule, steps: int) -> np.ndarray:
        """Returns the times of `steps` steps.

        Raises ValueError if `steps` is below 1 or exceeds the number of steps of the schedule.
        """
        if schedule.steps is not None and steps > schedule.steps:
            raise ValueError(f"steps = {steps}: must be at most {schedule.steps}, the steps of the schedule")
        times = self.spread(schedule, steps)
        return times if schedule.steps is None else _round_to_table(times, schedule.steps)


@checked(grid=instance(Grid, "Uniform()"), schedule=instance(Schedule, "Cosine()"))
def make_times(grid: Grid, schedule: Schedule, steps: int) -> np.ndarray:
    """Returns grid(schedule, steps). Raises ValueError if `grid` is not a grid, and for bad steps.

    >>> make_times(Uniform(), dj.schedules.Cosine(), 2).tolist()
    [1.0, 0.5, 0.0]
    """
    return grid(schedule, steps)


@dataclasses.dataclass(frozen=True)
class Uniform(Grid):
    """t_i = 1 - i/steps.

    >>> dj.grids.Uniform()(dj.schedules.Cosine(), 4).tolist()
    [1.0, 0.75, 0.5, 0.25, 0.0]
    """

    def spread(self, schedule: Schedule, steps: int) -> np.ndarray:
        return np.linspace(1.0, 0.0, steps + 1)


@dataclasses.dataclass(frozen=True)
class Quadratic(Grid):
    """t_i = (1 - i/steps)^2: short steps near the data (Song et al. 2021, App. D.2, tau_i = floor(c i^2)).

    Their c brings the first time close to t = 1; here the first time is 1.

    >>> dj.grids.Quadratic()(dj.schedules.RectifiedFlow(), 2).tolist()
    [1.0, 0.25, 0.0]
    """

    def spread(self, schedule: Schedule, steps: int) -> np.ndarray:
        return np.linspace(1.0, 0.0, steps + 1) ** 2


@dataclasses.dataclass(frozen=True)
class Trailing(Grid):
    """k_i = round(T (1 - i/steps)), ties to the even number (Lin et al. 2024, Sec. 3.3).

    Differs from `Uniform`, which rounds ties up, only in how it rounds ties; identical on continuous schedules.

    >>> dj.grids.Trailing()(dj.schedules.Cosine(10), 4).tolist()
    [1.0, 0.8, 0.5, 0.2, 0.0]
    """

    def spread(self, schedule: Schedule, steps: int) -> np.ndarray:
        if schedule.steps is None:
            return Uniform().spread(schedule, steps)
        return np.round(np.arange(steps, -1, -1) * schedule.steps / steps) / schedule.steps


@dataclasses.dataclass(frozen=True)
class Leading(Grid):
    """Every stride-th time of a discrete schedule from 1/T up, t_i = (i stride + 1)/T, then t = 0.

    stride = floor(T/steps): the "leading" spacing of the diffusers library. It starts below t = 1 (far below if
    `steps` does not divide T), where x_t still depends on the data: `Uniform` starts at 1.

    >>> dj.grids.Leading()(dj.schedules.Cosine(10), 3).tolist()
    [0.7, 0.4, 0.1, 0.0]
    """

    def spread(self, schedule: Schedule, steps: int) -> np.ndarray:
        if schedule.steps is None:
            raise ValueError(f"grid Leading: {type(schedule).__name__} is continuous, must be discrete; use Uniform")
        stride = schedule.steps // steps
        return np.append((np.arange(steps) * stride + 1)[::-1] / schedule.steps, 0.0)


@dataclasses.dataclass(frozen=True)
class UniformLogSNR(Grid):
    """Equal steps of log-SNR from t = 1 to `last`, then t = 0 (Lu et al. 2022).

    If SNR(1) = 0, the spacing is computed from t = 1 - last, and the first time is then set to 1.

    Attributes:
      last: the smallest time before 0, in (0, 0.5); at least 1/T on a discrete schedule.

    >>> times = dj.grids.UniformLogSNR()(dj.schedules.RectifiedFlow(), 4)
    >>> times.round(3).tolist()
    [1.0, 0.909, 0.091, 0.001, 0.0]
    """

    last: float = dataclasses.field(default=1e-3, metadata=number("(0, 0.5)"))

    def spread(self, schedule: Schedule, steps: int) -> np.ndarray:
        first, last = _log_snr_range(schedule, self.last)
        return _times_at(schedule, np.linspace(first, last, steps))


@dataclasses.dataclass(frozen=True)
class Karras(Grid):
    """(sigma/alpha)^(1/rho) in equal steps from t = 1 to `last`, then t = 0 (Karras et al. 2022, Eq. 5).

    On `schedules.Karras` with the default `last` these are EDM's own steps: sigma_max .. sigma_min, 0. On schedules
    that end at a very low SNR, such as the cosine, few steps leave long gaps of log-SNR at the start and the
    images noisy: use `UniformLogSNR` there.

    Attributes:
      rho: exponent; larger values make the steps near the data shorter.
      last: the smallest time before 0, in (0, 0.5); at least 1/T on a discrete schedule.

    >>> times = dj.grids.Karras()(dj.schedules.Karras(), 3)
    >>> np.asarray(dj.schedules.Karras().sigma(times), float).round(3).tolist()
    [80.0, 2.515, 0.002, 0.0]
    """

    rho: float = dataclasses.field(default=7.0, metadata=number("(0, inf)"))
    last: float = dataclasses.field(default=1e-3, metadata=number("(0, 0.5)"))

    def spread(self, schedule: Schedule, steps: int) -> np.ndarray:
        high, low = np.exp(np.asarray(_log_snr_range(schedule, self.last)) / (-2 * self.rho))
        return _times_at(schedule, -2 * self.rho * np.log(np.linspace(high, low, steps)))


@dataclasses.dataclass(frozen=True)
class Explicit(Grid):
    """A list of times, such as those of Align Your Steps (Sabour et al. 2024).

    Their ten steps for Stable Diffusion 1.5, indices 999, 850, 736, 645, 545, 455, 343, 233, 124 and 24 of 1000, are
    times=(1.0, 0.851, 0.737, 0.646, 0.546, 0.456, 0.344, 0.234, 0.125, 0.025, 0.0).

    Attributes:
      times: the times, strictly decreasing from 1 to 0.
      interpolate: allow any number of steps, not only len(times) - 1: the list of finite log-SNRs is then read at
        equal distances, linearly between neighbours.

    Raises ValueError for other `times`, and, when called, for another number of steps without `interpolate`.

    >>> dj.grids.Explicit((1.0, 0.6, 0.2, 0.0))(dj.schedules.RectifiedFlow(), 3).tolist()
    [1.0, 0.6, 0.2, 0.0]
    """

    times: tuple[float, ...]
    interpolate: bool = dataclasses.field(default=False, metadata=instance(bool, "True"))

    def __post_init__(self):
        super().__post_init__()
        times = np.asarray(self.times, np.float32)  # as they are used: times that float32 cannot tell apart are refused
        if times.ndim != 1 or [*times[:1], *times[-1:]] != [1, 0] or not (np.diff(times) < 0).all():
            raise ValueError(f"times = {self.times}: must decrease strictly from 1.0 to 0.0")
        object.__setattr__(self, "times", tuple(float(t) for t in self.times))

    def spread(self, schedule: Schedule, steps: int) -> np.ndarray:
        own = len(self.times) - 1
        if steps == own:
            return np.asarray(self.times)
        if not self.interpolate:
            raise ValueError(f"steps = {steps}: must be {own}, the steps of the times; or use interpolate=True")
        with jax.ensure_compile_time_eval():
            log_snr = np.asarray(schedule.log_snr(np.asarray(self.times[:-1])), np.float64)
        finite = log_snr[np.isfinite(log_snr)]
        if len(finite) < 2:
            raise ValueError(f"times = {self.times}: must have at least two times of finite log-SNR to interpolate")
        at = np.linspace(0, len(finite) - 1, steps - (own - len(finite)))
        between = np.interp(at, np.arange(len(finite)), finite)
        return _times_at(schedule, np.append(log_snr[np.isinf(log_snr)], between))


def _log_snr_range(schedule: Schedule, last: float) -> tuple[float, float]:
    """Finite log-SNR at the first time and at the last time before 0."""
    if schedule.steps is not None:
        last = max(last, 1 / schedule.steps)
    with jax.ensure_compile_time_eval():
        first, almost, end = (float(schedule.log_snr(t)) for t in (1.0, 1 - last, last))
    return (first if np.isfinite(first) else almost), end


def _times_at(schedule: Schedule, log_snr: np.ndarray) -> np.ndarray:
    """The times of these log-SNRs, the first of them set to 1, and then 0."""
    steps = len(log_snr)
    padded = np.pad(log_snr, (0, -steps % 64), mode="edge")  # every new shape would compile again
    with jax.ensure_compile_time_eval():
        times = np.asarray(schedule.time(padded), np.float64)[:steps]
    times[0] = 1.0  # exactly, however the inverse rounds
    return np.append(times, 0.0)


def _round_to_table(times: np.ndarray, table_steps: int) -> np.ndarray:
    """The nearest k/T, shifted where two times would coincide: strictly decreasing from T/T to 0."""
    steps = len(times) - 1
    k = np.floor(times * table_steps + 0.5).astype(int)
    for i in range(1, steps + 1):
        k[i] = min(k[i], k[i - 1] - 1)
    k = np.maximum(k, np.arange(steps, -1, -1))
    return k / table_steps


def __dir__() -> list[str]:
    return __all__
