"""A trained network that generates images."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike

from diffusion_jax.process.predictions import Prediction
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.run.batch import PerImage, generate_noise, lower_batch, network_denoiser, run_batch
from diffusion_jax.run.batches import (
    abstract_rows,
    batch_arguments,
    check_finite,
    choose_batch_size,
    join_batches,
    place_params,
    split_into_batches,
    take_rows,
)
from diffusion_jax.run.export import PLATFORMS, export_sampler
from diffusion_jax.run.inputs import prepare_inputs
from diffusion_jax.run.network import Network
from diffusion_jax.run.settings import Overrides, Sampling
from diffusion_jax.runtime.mesh import batch_sharding, make_mesh
from diffusion_jax.runtime.progress import progress_bar
from diffusion_jax.sampling.denoiser import Denoise
from diffusion_jax.sampling.randomness import check_key
from diffusion_jax.validation import checked, integer, optional

__all__ = ["Run"]


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained network with its settings; `dj.load` makes one.

    Attributes:
      network: the model, its schedule and its prediction.
      params: the parameters, of the moving average.
      sampling: the default settings of `sample`.
      mesh: the devices that generate; default: all.
      class_names: a name per class, () if the data have none.
      config: the config of the training run.
      step: the training step of the checkpoint.

    >>> class Scale:  # any hashable object with apply is a network
    ...     def apply(self, params, x, time, labels):
    ...         return params["w"] * x
    >>> network = dj.Network(Scale(), dj.schedules.Cosine(), dj.predictions.V(), (4, 4, 1), num_classes=3)
    >>> run = Run(network, {"w": jnp.float32(0.5)}, class_names=("cat", "dog", "owl"))
    >>> run.class_name(2)
    'owl'
    >>> run.sample(jax.random.key(0), 2, labels=[1, 2], steps=5).shape
    (2, 4, 4, 1)
    """

    network: Network
    params: Any
    sampling: Sampling = Sampling()
    mesh: Mesh = dataclasses.field(default_factory=make_mesh)
    class_names: tuple[str, ...] = ()
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    step: int = 0

    @property
    def schedule(self) -> Schedule:
        return self.network.schedule

    @property
    def prediction(self) -> Prediction:
        return self.network.prediction

    def class_name(self, label: int | np.integer) -> str:
        """The caption of an image of class `label`. Raises ValueError for an unknown class."""
        self.network.check_labels(np.asarray(label))
        return self.class_names[label] if self.class_names else str(label)

    def captions(self, labels: ArrayLike | None) -> list[str] | None:
        """The caption of each image of these labels, [n]; None without labels. Raises ValueError as `class_name`."""
        return None if labels is None else [self.class_name(label) for label in np.asarray(labels)]

    @checked(n=integer(1), batch_size=optional(integer(1)), keep=integer(0))
    def sample(
        self,
        key: jax.Array,
        n: int,
        *,
        labels: ArrayLike | None = None,
        sampling: Sampling | None = None,
        batch_size: int | None = None,
        noise: ArrayLike | None = None,
        keep: int = 0,
        keep_x0: bool = False,
        progress: bool = False,
        **overrides: Unpack[Overrides],
    ) -> Any:
        """Generates n images, float32 [n, H, W, C] in [-1, 1]; with `keep`, also `Frames` of that many states.

        Image i depends on (params, settings, key, i, labels[i], guidance[i]) alone: another `batch_size`, n
        or number of devices gives the same image. Changing the key, labels, eta, threshold or any part of
        guidance does not recompile, except a value that turns a part off: guidance 1, which halves the network
        calls, interval (), rescale or threshold 0. Another n, batch_size, number of steps, sampler or grid is another
        program, tens of MiB of code for a small network; the last 32 are kept, and older ones are freed.

        Args:
          key: a threefry key, `jax.random.key(0)`.
          n: number of images.
          labels: one class per image, [n]; None for images of no particular class.
          sampling: the settings; default: the run's own, `run.sampling`.
          batch_size: images at once; default: all, up to 256.
          noise: standard normal [n, H, W, C] to start from; default: `run.noise(key, n)`.
          keep, keep_x0: as in `dj.sample`.
          progress: show a progress bar.
          **overrides: fields of `Sampling` in place of those of `sampling`: steps, sampler, grid, clip, threshold
            and guidance, a scale or a `Guidance`.

        Raises:
          ValueError: if n, batch_size or steps is below 1, labels are out of range or too few, guidance has no
            labels, the network was never trained without labels and needs some, a weaker run does not fit, the
            sampler needs a variance that the network did not learn, the noise has another shape, or the images are
            not finite.

        >>> run = dj.load("runs/digits")  # doctest: +SKIP
        >>> run.sample(jax.random.key(0), 16, labels=[3] * 16, steps=20, guidance=2.0).shape  # doctest: +SKIP
        (16, 8, 8, 1)
        """
        check_key(key)
        inputs = prepare_inputs(self, n, labels, sampling, overrides)
        size = choose_batch_size(n, batch_size, self.mesh.size)
        noise, params = self.network.noise_rows(n, noise), place_params(inputs, self.mesh)
        inputs.settings.grid(self.schedule, inputs.settings.steps)  # raises before there is a progress bar
        all_indices, batches = split_into_batches(n, size, inputs.scale), []
        for indices in progress_bar(all_indices, unit="batch", disable=not progress):
            images = take_rows(indices, inputs.labels, noise, inputs.scale)
            placed = jax.device_put(images, batch_sharding(self.mesh))
            dynamic, static = batch_arguments(inputs, params, key, placed, self.mesh, keep, keep_x0)
            batches.append(jax.device_get(run_batch(*dynamic, **static)))
            check_finite(batches[-1], indices[0], images.scale)
        return join_batches(batches, np.concatenate(all_indices))

    @checked(n=integer(1), batch_size=optional(integer(1)))
    def lower(
        self,
        n: int,
        *,
        labels: ArrayLike | None = None,
        batch_size: int | None = None,
        **overrides: Unpack[Overrides],
    ) -> jax.stages.Lowered:
        """The program of the first batch of `sample` with the same arguments, to be compiled ahead of time.

        Nothing is computed: `params` may be shapes with shardings, and `mesh` may have devices that are not here, such
        as those of `jax.experimental.topologies`.

        >>> run = dj.pretrained("digits")
        >>> run.lower(16, labels=[3] * 16, steps=20).cost_analysis()["flops"] > 1e6
        True
        """
        inputs = prepare_inputs(self, n, labels, None, overrides)
        indices = split_into_batches(n, choose_batch_size(n, batch_size, self.mesh.size), inputs.scale)[0]
        images = abstract_rows(take_rows(indices, inputs.labels, None, inputs.scale), batch_sharding(self.mesh))
        key = jax.eval_shape(lambda: jax.random.key(0))
        dynamic, static = batch_arguments(inputs, place_params(inputs, self.mesh), key, images, self.mesh)
        return lower_batch(*dynamic, **static)

    @checked(n=integer(1))
    def noise(self, key: jax.Array, n: int) -> np.ndarray:
        """The noise that `sample(key, n)` starts from: standard normal float32 [n, H, W, C].

        >>> run.sample(key, 16, noise=run.noise(key, 16))  # doctest: +SKIP
        """
        return np.asarray(generate_noise(key, n, self.network.image_shape))

    @checked(n=integer(1))
    def denoiser(
        self,
        n: int,
        *,
        labels: ArrayLike | None = None,
        sampling: Sampling | None = None,
        **overrides: Unpack[Overrides],
    ) -> Denoise:
        """The network as denoise(x_t, t) for n images at once, for `editing`, `likelihood` and `dj.sample`.

        The arguments, defaults and errors are those of `sample`; sampler, steps and grid have no effect here.

        >>> denoise = run.denoiser(len(x0), labels=labels, guidance=1.0)  # doctest: +SKIP
        >>> dj.editing.reconstruct(denoise, run.schedule, x0)  # doctest: +SKIP
        """
        inputs = prepare_inputs(self, n, labels, sampling, overrides)
        scale = None if inputs.scale is None else jnp.asarray(inputs.scale)
        images = PerImage(None, jnp.asarray(inputs.labels), None, scale)
        return network_denoiser(*inputs.networks, inputs.params, images, inputs.shared, inputs.settings.clip)

    @checked(n=optional(integer(1)), seed=optional(integer(0, 2**32 - 1)), labels=optional(integer(0)))
    def export(
        self,
        path: str | os.PathLike,
        *,
        inputs: Sequence[str] | None = None,
        seed: int | None = None,
        labels: int | None = None,
        steps: int | Sequence[int] | None = None,
        n: int | None = None,
        platforms: Sequence[str] = PLATFORMS,
        sampling: Sampling | None = None,
        **overrides: Any,
    ) -> None:
        """Writes the sampler as one .bin file that generates images with JAX alone, without this library.

        The file holds programs of `jax.export`, the weights and a description. docs/export.md has the ten lines that
        read it. With a fixed n and one platform it generates the same bits as `sample(key, n)` on one such device. With
        an open n or several platforms JAX rewrites the program before it compiles it, which may change the last bits.
        A number of steps is a program of its own. Needs the extra `export` (flatbuffers), as does reading.

        Args:
          path: the file; its name ends in .bin.
          inputs: which of "seed", "labels" and "guidance" the program takes, beside the `indices` of the images; the
            others are constants. Default: the seed and the labels (if there are classes), unless they have a value.
          seed: a constant seed, from 0 to 2**32 - 1; `jax.random.key(seed)` is the key.
          labels: a constant class of all images. Without it and without the input, images of no particular class.
          steps: one or several numbers of steps; default: the run's own.
          n: a fixed number of images; default: any, chosen when the program is called.
          platforms: where it runs, some of "cpu", "cuda" and "tpu".
          sampling, **overrides: the settings, as in `sample`. Guidance as an input is a scale for all images; the
            other fields of `Guidance` are those of `sampling`.

        Raises ValueError as `sample`, and if an input has a value, a constant has none, or flatbuffers is missing;
        OSError if the file cannot be written.

        >>> run.export("digits.bin", inputs=("seed", "labels", "guidance"), steps=(10, 20))  # doctest: +SKIP
        """
        constants = {"seed": seed, "labels": labels}
        export_sampler(self, Path(path), inputs, constants, steps, n, platforms, sampling, overrides)
