"""The images of one command, the run that edits them and the settings of sampling."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from diffusion_jax.edit.images import read_images, training_look
from diffusion_jax.run import Run
from diffusion_jax.sampling.denoiser import Denoise
from diffusion_jax.sampling.grids import Grid
from diffusion_jax.sampling.samplers import Sampler

# Steps of a task that goes to noise and back.
_STEPS_THERE_AND_BACK = 100


@dataclasses.dataclass(frozen=True)
class Job:
    """Image files to edit with a run. A setting of None is the run's own.

    Attributes:
      run: the trained network.
      key: source of all randomness.
      paths: image files, of any format that `sources.Folder` reads.
      resize: crop and resize images of another size instead of refusing them.
      labels: one class per edited image, [N]; None for no class.
      guidance: scale of classifier-free guidance; needs labels.
      clip: clip x0 to [-1, 1] at every step.
      steps: steps from noise to data.
      sampler: the reverse step.
      grid: chooses the times of the steps.
    """

    run: Run
    key: jax.Array
    paths: Sequence[str]
    resize: bool = False
    labels: np.ndarray | None = None
    guidance: float | None = None
    clip: bool | None = None
    steps: int | None = None
    sampler: Sampler | None = None
    grid: Grid | None = None

    def read(
        self, paths: Sequence[str] | None = None, size: tuple[int, int] | None = None, channels: int | None = None
    ) -> np.ndarray:
        """The images at `paths`, float32 [N, H, W, C] in [-1, 1]; by default those to edit, as the run makes them."""
        *own_size, own_channels = self.run.network.image_shape
        return read_images(
            self.paths if paths is None else paths,
            size or (own_size[0], own_size[1]),
            channels or own_channels,
            self.resize,
            **training_look(self.run.config),
        )

    def denoiser(self, n: int) -> Denoise:
        """The run's denoiser for n images."""
        return self.run.denoiser(n, labels=self.labels, guidance=self.guidance, clip=self.clip)

    def sampling(self) -> dict[str, Any]:
        """Arguments of `sample`."""
        chosen = self.run.sampling.override(sampler=self.sampler, steps=self.steps, grid=self.grid)
        sampler = self.run.network.adapt_sampler(chosen.sampler)
        return {"sampler": sampler, "steps": chosen.steps, "grid": chosen.grid}

    def there_and_back(self) -> dict[str, Any]:
        """Arguments of `editing.invert` and `editing.decode`."""
        return {"steps": self.steps or _STEPS_THERE_AND_BACK, "grid": self.grid or self.run.sampling.grid}
