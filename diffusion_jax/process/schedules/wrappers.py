"""Schedules made from other schedules."""

import dataclasses
from functools import cached_property

import jax
import numpy as np
from jax.typing import ArrayLike

from diffusion_jax.process.schedules.base import Schedule, as_float32
from diffusion_jax.process.schedules.discrete import Discrete
from diffusion_jax.validation import instance, integer

__all__ = ["Shifted", "ZeroTerminalSNR"]


@dataclasses.dataclass(frozen=True)
class ZeroTerminalSNR(Discrete):
    """A discrete schedule rescaled so that alpha_T = 0 exactly (Lin et al. 2024, Alg. 1).

    alpha'_k = (alpha_k - alpha_T) alpha_1 / (alpha_1 - alpha_T). Needs a prediction other than
    `Eps`, because at alpha = 0 eps does not determine x0.

    Attributes:
      schedule: the schedule to rescale, of at least 2 steps.

    >>> dj.schedules.ZeroTerminalSNR(dj.schedules.LinearBeta()).alpha(1.0).item()
    0.0
    """

    schedule: Discrete = dataclasses.field(metadata=instance(Discrete, "LinearBeta()"))

    def __post_init__(self):
        super().__post_init__()
        if self.schedule.steps < 2:
            raise ValueError(f"schedule = {self.schedule}: must have at least 2 steps; use more steps")

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
class Shifted(Schedule):
    """A schedule with its log-SNR shifted by 2 log(reference/resolution) (Hoogeboom et al. 2023, Sec. 3.1).

    Larger images need more noise to lose the same structure. The kind of schedule (variance preserving, straight,
    exploding) stays the same.

    Attributes:
      schedule: the schedule to shift.
      resolution: side of the images in pixels.
      reference: side in pixels of the images that `schedule` was made for.

    >>> shifted = dj.schedules.Shifted(dj.schedules.RectifiedFlow(), resolution=128, reference=64)
    >>> round(shifted.shift, 3)  # 2 log(64/128)
    -1.386
    """

    schedule: Schedule = dataclasses.field(metadata=instance(Schedule, "Cosine()"))
    resolution: int = dataclasses.field(metadata=integer(1))
    reference: int = dataclasses.field(default=64, metadata=integer(1))

    @property
    def shift(self) -> float:
        return 2 * float(np.log(self.reference / self.resolution))

    @property
    def steps(self) -> int | None:
        return self.schedule.steps

    def log_snr(self, t: ArrayLike) -> jax.Array:
        return self.schedule.log_snr(t) + self.shift

    def time(self, log_snr: ArrayLike) -> jax.Array:
        return self.schedule.time(as_float32(log_snr) - self.shift)

    def scales(self, log_snr: ArrayLike) -> tuple[jax.Array, jax.Array]:
        return self.schedule.scales(log_snr)
