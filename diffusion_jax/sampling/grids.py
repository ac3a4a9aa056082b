"""Grids: at which times a sampler stops on its way from t = 1 to t = 0.

A grid is a frozen dataclass called with (schedule, steps); it returns float64 [steps + 1], strictly
decreasing, from 1 (`Leading`: from below) to 0. On a discrete schedule every time is some k/T, the only
ones that its network was trained on. To add one, subclass `Grid` and give `spread`.
"""

import dataclasses

import jax
import numpy as np

from diffusion_jax.process.schedules import Schedule
from diffusion_jax.validation import Checked, check_instance, check_integer, instance, number

__all__ = ["Explicit", "Grid", "Karras", "Leading", "Quadratic", "Trailing", "Uniform", "UniformLogSNR", "times_of"]


@dataclasses.dataclass(frozen=True)
class Grid(Checked):
    """Base of the grids: checks the number of steps and moves the times onto a discrete table."""

    def spread(self, schedule: Schedule, steps: int) -> np.ndarray:
        """The wanted times, [steps + 1], from 1 down to 0."""
        raise NotImplementedError

    def __call__(self, schedule: Schedule, steps: int) -> np.ndarray:
        """Times for `steps` steps. Raises ValueError for steps < 1 or more than the schedule has."""
        check_integer("steps", steps)
        if schedule.steps is not None and steps > schedule.steps:
            raise ValueError(f"steps = {steps}: the schedule has only {schedule.steps} times; use at most so many")
        times = self.spread(schedule, steps)
        return times if schedule.steps is None else _onto_table(times, schedule.steps)


def times_of(grid: Grid, schedule: Schedule, steps: int) -> np.ndarray:
    """grid(schedule, steps). Raises ValueError for what is no grid, and for bad steps."""
    check_instance("grid", grid, Grid, "Uniform()")
    check_instance("schedule", schedule, Schedule, "Cosine()")
    return grid(schedule, steps)


@dataclasses.dataclass(frozen=True)
class Uniform(Grid):
    """t_i = 1 - i/steps."""

    def spread(self, schedule: Schedule, steps: int) -> np.ndarray:
        return np.linspace(1.0, 0.0, steps + 1)


@dataclasses.dataclass(frozen=True)
class Quadratic(Grid):
    """t_i = (1 - i/steps)^2: short steps near the data (Song et al. 2021, App. D.2, tau_i = floor(c i^2)).

    Their c brings the first time close to t = 1; here it is 1.
    """

    def spread(self, schedule: Schedule, steps: int) -> np.ndarray:
        return np.linspace(1.0, 0.0, steps + 1) ** 2


@dataclasses.dataclass(frozen=True)
class Trailing(Grid):
    """k_i = round(T (1 - i/steps)), a half to the even number (Lin et al. 2024, Sec. 3.3).

    `Uniform` rounds a half up and is else the same; on a continuous schedule the two are one.
    """

    def spread(self, schedule: Schedule, steps: int) -> np.ndarray:
        if schedule.steps is None:
            return Uniform().spread(schedule, steps)
        return np.round(np.arange(steps, -1, -1) * schedule.steps / steps) / schedule.steps


@dataclasses.dataclass(frozen=True)
class Leading(Grid):
    """Every stride-th time of a discrete schedule from 1/T up, t_i = (i stride + 1)/T, then t = 0.

    stride = floor(T/steps): the "leading" spacing of the diffusers library. It starts below t = 1, far below
    where `steps` does not divide T, and there the data still show in x_t: `Uniform` starts at 1.
    """

    def spread(self, schedule: Schedule, steps: int) -> np.ndarray:
        if schedule.steps is None:
            raise ValueError(
                f"grid Leading: {type(schedule).__name__} is continuous, with no steps to stride over; use Uniform"
            )
        stride = schedule.steps // steps
        return np.append((np.arange(steps) * stride + 1)[::-1] / schedule.steps, 0.0)


@dataclasses.dataclass(frozen=True)
class UniformLogSNR(Grid):
    """Equal steps of log-SNR from t = 1 to `last`, then t = 0 (Lu et al. 2022).

    `last` is the smallest time before 0; a discrete schedule's is never under 1/T. Where the SNR
    is zero at t = 1, the steps are counted from 1 - last, in whose place t = 1 stands.
    """

    last: float = dataclasses.field(default=1e-3, metadata=number("(0, 0.5)"))

    def spread(self, schedule: Schedule, steps: int) -> np.ndarray:
        first, last = _log_snr_range(schedule, self.last)
        return _times(schedule, np.linspace(first, last, steps))


@dataclasses.dataclass(frozen=True)
class Karras(Grid):
    """(sigma/alpha)^(1/rho) in equal steps from t = 1 to `last`, then t = 0 (Karras et al. 2022, Eq. 5).

    On `schedules.Karras`, with `last` as it stands, these are EDM's own steps: sigma_max .. sigma_min, 0. On
    schedules that end at a very low SNR, such as the cosine, few steps leave long gaps of log-SNR at first
    and the pictures noisy: use `UniformLogSNR` there.
    """

    rho: float = dataclasses.field(default=7.0, metadata=number("(0, inf)"))
    last: float = dataclasses.field(default=1e-3, metadata=number("(0, 0.5)"))

    def spread(self, schedule: Schedule, steps: int) -> np.ndarray:
        high, low = np.exp(np.asarray(_log_snr_range(schedule, self.last)) / (-2 * self.rho))
        return _times(schedule, -2 * self.rho * np.log(np.linspace(high, low, steps)))


@dataclasses.dataclass(frozen=True)
class Explicit(Grid):
    """The very `times` given, from 1 down to 0, such as those of Align Your Steps (Sabour et al. 2024).

    Their ten for Stable Diffusion 1.5, indices 999, 850, 736, 645, 545, 455, 343, 233, 124 and 24 of 1000,
    are times=(1.0, 0.851, 0.737, 0.646, 0.546, 0.456, 0.344, 0.234, 0.125, 0.025, 0.0). `steps` has to be
    len(times) - 1. With `interpolate` any number will do: the row of their log-SNR, where it is finite, is
    then read at equal distances, linearly between neighbours. Raises ValueError for other `steps` or `times`.
    """

    times: tuple[float, ...]
    interpolate: bool = dataclasses.field(default=False, metadata=instance(bool, "True"))

    def __post_init__(self):
        super().__post_init__()
        times = np.asarray(self.times, np.float32)  # as they will be used: two that are one there are refused
        if times.ndim != 1 or [*times[:1], *times[-1:]] != [1, 0] or not (np.diff(times) < 0).all():
            raise ValueError(f"times = {self.times}: must decrease strictly from 1.0 to 0.0")
        object.__setattr__(self, "times", tuple(float(t) for t in self.times))

    def spread(self, schedule: Schedule, steps: int) -> np.ndarray:
        own = len(self.times) - 1
        if steps == own:
            return np.asarray(self.times)
        if not self.interpolate:
            raise ValueError(f"steps = {steps}: the times given make {own}; use these, or interpolate=True")
        with jax.ensure_compile_time_eval():
            log_snr = np.asarray(schedule.log_snr(np.asarray(self.times[:-1])), np.float64)
        finite = log_snr[np.isfinite(log_snr)]
        if len(finite) < 2:
            raise ValueError(f"times = {self.times}: too few to interpolate; give two of finite log-SNR")
        at = np.linspace(0, len(finite) - 1, steps - (own - len(finite)))
        between = np.interp(at, np.arange(len(finite)), finite)
        return _times(schedule, np.append(log_snr[np.isinf(log_snr)], between))


def _log_snr_range(schedule: Schedule, last: float) -> tuple[float, float]:
    """Finite log-SNR at the first time and at the last before 0."""
    if schedule.steps is not None:
        last = max(last, 1 / schedule.steps)
    with jax.ensure_compile_time_eval():
        first, almost, end = (float(schedule.log_snr(t)) for t in (1.0, 1 - last, last))
    return (first if np.isfinite(first) else almost), end


def _times(schedule: Schedule, log_snr: np.ndarray) -> np.ndarray:
    steps = len(log_snr)
    padded = np.pad(log_snr, (0, -steps % 64), mode="edge")  # every new shape would be compiled anew
    with jax.ensure_compile_time_eval():
        times = np.asarray(schedule.time(padded), np.float64)[:steps]
    times[0] = 1.0  # exactly, whatever the inverse rounds to
    return np.append(times, 0.0)


def _onto_table(times: np.ndarray, table_steps: int) -> np.ndarray:
    """The nearest k/T, moved where two would meet: strictly decreasing from T/T to 0."""
    steps = len(times) - 1
    k = np.floor(times * table_steps + 0.5).astype(int)
    for i in range(1, steps + 1):
        k[i] = min(k[i], k[i - 1] - 1)
    k = np.maximum(k, np.arange(steps, -1, -1))
    return k / table_steps


def __dir__() -> list[str]:
    return __all__
