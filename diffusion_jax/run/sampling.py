"""The settings of sampling."""

import dataclasses

import numpy as np

from diffusion_jax.arguments import check_kind, check_number, check_whole, one_number
from diffusion_jax.sampling.grids import Grid, Uniform
from diffusion_jax.sampling.samplers import DDIM, Sampler


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How pictures are drawn unless the caller says otherwise: the `sampler` section of a config.

    Attributes:
      sampler: the reverse step.
      steps, grid: the times it stops at.
      guidance: scale w of classifier-free guidance; 1 is the conditional model, one network call a step.
      guidance_interval: (low, high), the noise levels sigma/alpha at which guidance acts, low < sigma/alpha
        <= high (`guidance.interval`); () for all of them.
      guidance_rescale: how far guidance keeps the contrast of the conditional model, in [0, 1]
        (`guidance.rescale`); 0 for not at all.
      clip: clip x0 to [-1, 1] at every step.
      threshold: quantile of |x0|, in (0, 1], for dynamic thresholding at every step (`dynamic_threshold`),
        which brings x0 into [-1, 1] with or without `clip`; 0 for none.
    """

    sampler: Sampler = DDIM()
    steps: int = 50
    grid: Grid = Uniform()
    guidance: float = 1.0
    guidance_interval: tuple[float, ...] = ()
    guidance_rescale: float = 0.0
    clip: bool = True
    threshold: float = 0.0

    def __post_init__(self):
        check_kind("sampler", self.sampler, Sampler, "DDIM()")
        check_kind("grid", self.grid, Grid, "Uniform()")
        check_kind("clip", self.clip, bool, "True")
        check_whole("steps", self.steps)
        check_number("guidance", self.guidance)
        check_number("guidance_interval", self.guidance_interval, 0, infinite=True)
        levels = tuple(np.ravel(self.guidance_interval).tolist())
        object.__setattr__(self, "guidance_interval", levels)
        if levels and not (len(levels) == 2 and 0 <= levels[0] < levels[1]):
            raise ValueError(
                f"guidance_interval = {levels}: give two noise levels, low < high, such as (0.3, 3.0)"
            )
        for name in ("guidance_rescale", "threshold"):
            object.__setattr__(self, name, one_number(name, getattr(self, name), 0, 1))
