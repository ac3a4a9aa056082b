"""The settings of sampling: the sampler and its times, guidance, clipping."""

import dataclasses
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from jax.typing import ArrayLike

from diffusion_jax.sampling.grids import Grid, Uniform
from diffusion_jax.sampling.samplers import DDIM, Sampler
from diffusion_jax.validation import Checked, as_number, check_number, instance, integer, number, numbers, renamed

if TYPE_CHECKING:
    from diffusion_jax.run.run import Run

__all__ = ["Guidance", "Overrides", "Sampling"]


# Configs and flags call the fields of `Guidance` guidance_interval and guidance_rescale, and so do the messages.
def _as_levels(_: str, value: Any) -> tuple[float, ...]:
    check_number("guidance_interval", value, "[0, inf]")
    levels = tuple(np.ravel(value).tolist())
    if levels and not (len(levels) == 2 and levels[0] < levels[1]):
        raise ValueError(f"guidance_interval = {levels}: must be two noise levels, low < high, such as (0.3, 3.0)")
    return levels


@dataclasses.dataclass(frozen=True)
class Guidance(Checked):
    """How samples are guided: weaker + scale (conditional - weaker), on x0 and eps.

    Attributes:
      scale: w of classifier-free guidance (`guidance.classifier_free`), a number or one per image [n]; 1 is the
        conditional model, at one network call per step, 0 the unconditional one.
      interval: (low, high), the noise levels at which guidance acts, low < sigma/alpha <= high
        (`guidance.interval`); () for all of them.
      rescale: how far guidance keeps the contrast of the conditional model, in [0, 1] (`guidance.rescale`); 0
        leaves the contrast as it is.
      weaker: a run that guidance leads away from, instead of the unconditional model (`guidance.autoguidance`), with
        or without labels: trained on the same data and schedule, but smaller or for less long.
        `dataclasses.replace(run, params=...)` makes one from an earlier average of the weights.

    Raises ValueError if a value is out of range.

    >>> Guidance(2.0, interval=(0.3, 3.0)).scale
    2.0
    """

    scale: ArrayLike = dataclasses.field(metadata=renamed("guidance", numbers()))
    interval: tuple[float, ...] = dataclasses.field(default=(), metadata={"check": _as_levels})
    rescale: float = dataclasses.field(default=0.0, metadata=renamed("guidance_rescale", number("[0, 1]")))
    weaker: "Run | None" = None


@dataclasses.dataclass(frozen=True)
class Sampling(Checked):
    """How a run generates images by default: the `sampler` section of a config.

    Attributes:
      sampler: the reverse step.
      steps: number of steps from noise to data.
      grid: chooses the times of the steps.
      guidance: `Guidance`; a number is its scale.
      clip: clip x0 to [-1, 1] at every step.
      threshold: quantile of |x0|, in (0, 1], for dynamic thresholding at every step (`dynamic_threshold`),
        which brings x0 into [-1, 1] with or without `clip`; 0 turns it off.

    Raises ValueError if a value is out of range.

    >>> Sampling(dj.samplers.DPMSolverPP(), steps=20, guidance=2.0).guidance
    Guidance(scale=2.0, interval=(), rescale=0.0, weaker=None)
    """

    sampler: Sampler = dataclasses.field(default=DDIM(), metadata=instance(Sampler, "DDIM()"))
    steps: int = dataclasses.field(default=50, metadata=integer(1))
    grid: Grid = dataclasses.field(default=Uniform(), metadata=instance(Grid, "Uniform()"))
    guidance: Guidance = Guidance(1.0)
    clip: bool = dataclasses.field(default=True, metadata=instance(bool, "True"))
    threshold: float = dataclasses.field(default=0.0, metadata=number("[0, 1]"))

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.guidance, Guidance):
            object.__setattr__(self, "guidance", Guidance(as_number("guidance", self.guidance)))

    def override(self, **overrides: Any) -> "Sampling":
        """These settings with others in place of some; None leaves a setting unchanged.

        A number or an array for `guidance` changes its scale only. Raises TypeError for an unknown name and
        ValueError if a value is out of range.

        >>> Sampling(steps=50).override(steps=20, clip=None).steps
        20
        """
        names = [field.name for field in dataclasses.fields(self)]
        for name in overrides.keys() - set(names):
            raise TypeError(f"unexpected keyword argument {name!r}; the settings are {', '.join(names)}")
        changed = {name: value for name, value in overrides.items() if value is not None}
        if "guidance" in changed and not isinstance(changed["guidance"], Guidance):
            changed["guidance"] = dataclasses.replace(self.guidance, scale=changed["guidance"])
        return dataclasses.replace(self, **changed)


class Overrides(TypedDict, total=False):
    """The keyword arguments of `Sampling.override`, for type checkers and completion."""

    sampler: Sampler | None
    steps: int | None
    grid: Grid | None
    guidance: Guidance | ArrayLike | None
    clip: bool | None
    threshold: float | None
