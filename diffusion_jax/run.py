"""A trained network with all that sampling it needs."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jax.sharding import Mesh, PartitionSpec
from jax.typing import ArrayLike

from diffusion_jax.process.predictions import Prediction
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.runtime.mesh import batch_sharding, replicated
from diffusion_jax.sampling.denoiser import Denoise, clipped, denoiser
from diffusion_jax.sampling.grids import Grid, Uniform
from diffusion_jax.sampling.guidance import classifier_free
from diffusion_jax.sampling.sample import Frames, first_noise, sample
from diffusion_jax.sampling.samplers import DDIM, Sampler
from diffusion_jax.training.losses import NO_LABEL


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How pictures are drawn unless the caller says otherwise: the `sampler` section of a config.

    Attributes:
      sampler: the reverse step.
      steps, grid: the times it stops at.
      guidance: scale w of classifier-free guidance; 1 is the conditional model, one network call a step.
      clip: clip x0 to [-1, 1] at every step.
    """

    sampler: Sampler = DDIM()
    steps: int = 50
    grid: Grid = Uniform()
    guidance: float = 1.0
    clip: bool = True

    def __post_init__(self):
        if not np.isfinite(self.guidance):
            raise ValueError(f"guidance = {self.guidance}: must be finite")


@dataclasses.dataclass(frozen=True)
class Network:
    """What stays the same between two calls of the sampler; hashable, so that jit knows it again."""

    model: Any
    schedule: Schedule
    prediction: Prediction
    image_shape: tuple[int, int, int]
    num_classes: int
    unlabelled: bool = True  # it was also trained without labels: what guidance starts from


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained network. `config` is that of the training run, `step` the checkpoint's."""

    network: Network
    params: Any
    sampling: Sampling
    mesh: Mesh
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
        """What to write under a picture of class `label`. Raises ValueError where there is no such class."""
        if not 0 <= label < self.network.num_classes:
            raise ValueError(f"labels contain {label}: must be from 0 to {self.network.num_classes - 1}")
        return self.class_names[label] if self.class_names else str(label)

    def sample(
        self,
        key: jax.Array,
        n: int,
        *,
        labels: ArrayLike | None = None,
        steps: int | None = None,
        sampler: Sampler | None = None,
        guidance: float | None = None,
        grid: Grid | None = None,
        clip: bool | None = None,
        batch_size: int | None = None,
        noise: ArrayLike | None = None,
        keep: int = 0,
        keep_x0: bool = False,
        progress: bool = False,
    ) -> Any:
        """Draws n pictures, float32 [n, H, W, C] in [-1, 1]; with `keep`, also `Frames` of that many states.

        Picture i depends on (params, settings, key, i, labels[i]) alone: another `batch_size`, n or number of
        devices gives the same picture. What is not given is as in the run's config. Another key, label,
        eta or `guidance` does not recompile (but 1, which leaves out half of the network calls, is
        another program).

        Args:
          labels: one class a picture, [n]; None for pictures of no particular class.
          guidance: classifier-free scale w, uncond + w (cond - uncond); needs labels.
          batch_size: pictures at once; all, up to 256, unless given.
          noise: standard normal [n, H, W, C] to start from; `noise(key, n)` unless given.
          keep, keep_x0: as in `dj.sample`.

        Raises:
          ValueError: for n, batch_size or steps below 1, labels out of range or too few, guidance
            without labels, no labels or guidance where the network was never trained without labels,
            noise of another shape, and pictures that are not finite.
        """
        chosen = self._settings(steps=steps, sampler=sampler, guidance=guidance, grid=grid, clip=clip)
        rows = self._labels(n, labels, guidance)
        noise = None if noise is None else self._noise(n, noise)
        size = self._batch_size(n, batch_size)
        guided = labels is not None and chosen.guidance != 1.0
        if guided and not self.network.unlabelled:
            raise ValueError(
                f"guidance = {chosen.guidance}: this network was never trained without labels; use 1.0, "
                "or train it with loss.label_drop above 0"
            )
        parts = []
        for first in tqdm.trange(0, n, size, unit="batch", disable=not progress):
            indices = np.arange(first, first + size)
            filled = np.minimum(indices, n - 1)  # the last batch, with pictures that nobody sees
            batch = (indices, rows[filled], None if noise is None else noise[filled])
            drawn = _draw(
                self.params,
                key,
                *jax.device_put(batch, batch_sharding(self.mesh)),
                chosen.sampler,
                jnp.float32(chosen.guidance),
                network=self.network,
                steps=chosen.steps,
                grid=chosen.grid,
                clip=chosen.clip,
                guided=guided,
                keep=keep,
                keep_x0=keep_x0,
                mesh=self.mesh,
            )
            parts.append(jax.device_get(drawn))
            if not all(np.isfinite(x).all() for x in jax.tree.leaves(parts[-1])):
                raise ValueError(
                    f"pictures from {first} on are not finite; use a guidance below {chosen.guidance}, more "
                    "steps, or an earlier checkpoint"
                )
        return _joined(parts, n)

    def noise(self, key: jax.Array, n: int) -> np.ndarray:
        """The noise from which `sample(key, n)` starts: standard normal float32 [n, H, W, C]."""
        _check_n(n)
        return np.asarray(_first_noise(key, np.arange(n), self.network.image_shape))

    def _settings(self, **given: Any) -> Sampling:
        return dataclasses.replace(self.sampling, **{k: v for k, v in given.items() if v is not None})

    def _labels(self, n: int, labels: ArrayLike | None, guidance: float | None) -> np.ndarray:
        """int32 [n], NO_LABEL where none are given."""
        _check_n(n)
        if labels is None:
            if guidance is not None and guidance != 1.0:
                raise ValueError(f"guidance = {guidance}: needs labels to guide towards")
            if self.network.num_classes and not self.network.unlabelled:
                raise ValueError(
                    f"labels: this network was never trained without them; give {n}, one a picture"
                )
            return np.full(n, NO_LABEL, np.int32)
        rows = np.asarray(labels)
        if not self.network.num_classes:
            raise ValueError("labels: this network was trained without classes; leave them out")
        if rows.shape != (n,) or not np.issubdtype(rows.dtype, np.integer):
            raise ValueError(f"labels are {rows.dtype} {rows.shape}: need {n} integers, one a picture")
        wrong = rows[(rows < 0) | (rows >= self.network.num_classes)]
        if len(wrong):
            raise ValueError(f"labels contain {wrong[0]}: must be from 0 to {self.network.num_classes - 1}")
        return rows.astype(np.int32)

    def _noise(self, n: int, noise: ArrayLike) -> np.ndarray:
        given, shape = np.asarray(noise, np.float32), (n, *self.network.image_shape)
        if given.shape != shape:
            raise ValueError(f"noise has shape {given.shape}: need {shape}")
        if not np.isfinite(given).all():
            raise ValueError("noise is not finite: give standard normal numbers, as run.noise(key, n) does")
        return given

    def _batch_size(self, n: int, batch_size: int | None) -> int:
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size = {batch_size}: must be at least 1")
        size = min(n, 256) if batch_size is None else batch_size
        # The devices share it evenly, and none gets a single picture: the compiler drops a dimension
        # of 1, and then rounds differently.
        return max(2, -(-size // self.mesh.size)) * self.mesh.size


def _check_n(n: int) -> None:
    if n < 1:
        raise ValueError(f"n = {n}: draw at least one picture")


_first_noise = jax.jit(first_noise, static_argnums=2)


@functools.partial(
    jax.jit,
    static_argnames=("network", "steps", "grid", "clip", "guided", "keep", "keep_x0", "mesh"),
)
def _draw(
    params: Any,
    key: jax.Array,
    indices: jax.Array,
    labels: jax.Array,
    noise: jax.Array | None,
    sampler: Sampler,
    guidance: jax.Array,
    *,
    network: Network,
    steps: int,
    grid: Grid,
    clip: bool,
    guided: bool,
    keep: int,
    keep_x0: bool,
    mesh: Mesh,
) -> Any:
    """One batch of pictures, the same on every process."""

    def draw(params, key, indices, labels, noise, sampler, guidance):
        denoise = _denoise(network, params, labels, guidance if guided else None, clip)
        return sample(
            key,
            denoise,
            network.schedule,
            (len(indices), *network.image_shape),
            sampler=sampler,
            steps=steps,
            grid=grid,
            indices=indices,
            noise=noise,
            keep=keep,
            keep_x0=keep_x0,
        )

    # Each device draws its part by itself, with the program that a single device would run: were the
    # compiler to split the batch, it would also round differently.
    split = PartitionSpec(mesh.axis_names)
    everywhere, split_frames = PartitionSpec(), PartitionSpec(None, mesh.axis_names)
    frames: Any = Frames(everywhere, split_frames, split_frames if keep_x0 else None)  # type: ignore
    drawn = jax.shard_map(
        draw,
        mesh=mesh,
        in_specs=(everywhere, everywhere, split, split, split, everywhere, everywhere),
        out_specs=(split, frames) if keep else split,
        check_vma=False,
    )(params, key, indices, labels, noise, sampler, guidance)
    return jax.lax.with_sharding_constraint(drawn, replicated(mesh))


def _denoise(
    network: Network, params: Any, labels: jax.Array, guidance: jax.Array | None, clip: bool
) -> Denoise:
    """The network as a denoiser, guided and clipped where asked for."""

    def with_labels(labels: jax.Array | None) -> Denoise:
        return denoiser(network.model.apply, params, network.schedule, network.prediction, labels)

    denoise = with_labels(labels if network.num_classes else None)
    if guidance is not None:
        denoise = classifier_free(denoise, with_labels(None), guidance)
    return clipped(denoise, network.schedule) if clip else denoise


def _joined(parts: list, n: int) -> Any:
    """Batches as one, without what filled up the last; pictures clipped to [-1, 1]."""
    if not isinstance(parts[0], tuple):
        return np.clip(np.concatenate(parts)[:n], -1, 1)
    pictures, frames = zip(*parts, strict=True)
    states = [f._replace(times=None) for f in frames]
    joined = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1)[:, :n], *states)
    return _joined(list(pictures), n), joined._replace(times=frames[0].times)
