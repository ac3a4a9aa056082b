"""A trained network with all that sampling it needs."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jax.sharding import Mesh
from jax.typing import ArrayLike

from diffusion_jax.arguments import check_kind, check_number, check_whole
from diffusion_jax.process.predictions import Prediction
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.run.batch import Pictures, Settings, draw, network_denoiser
from diffusion_jax.run.network import Network
from diffusion_jax.run.sampling import Sampling
from diffusion_jax.runtime.mesh import batch_sharding, replicated
from diffusion_jax.sampling.denoiser import Denoise
from diffusion_jax.sampling.grids import Grid
from diffusion_jax.sampling.sample import check_key, first_noise
from diffusion_jax.sampling.samplers import Sampler


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
        guidance: ArrayLike | None = None,
        guidance_interval: tuple[float, ...] | None = None,
        guidance_rescale: float | None = None,
        weaker: "Run | None" = None,
        grid: Grid | None = None,
        clip: bool | None = None,
        threshold: float | None = None,
        batch_size: int | None = None,
        noise: ArrayLike | None = None,
        keep: int = 0,
        keep_x0: bool = False,
        progress: bool = False,
    ) -> Any:
        """Draws n pictures, float32 [n, H, W, C] in [-1, 1]; with `keep`, also `Frames` of that many states.

        Picture i depends on (params, settings, key, i, labels[i], guidance[i]) alone: another `batch_size`, n
        or number of devices gives the same picture. What is not given is as in the run's config. Another
        key, label, eta, `guidance`, interval, rescale or threshold does not recompile (but a setting that
        leaves something out is another program: guidance 1, which needs half of the network calls, the
        interval (), rescale or threshold 0).

        Args:
          labels: one class a picture, [n]; None for pictures of no particular class.
          guidance: scale w of classifier-free guidance, uncond + w (cond - uncond); a number, or one a
            picture, [n]. Needs labels.
          guidance_interval, guidance_rescale, clip, threshold: as in `Sampling`.
          weaker: a run to be led away from in place of the unconditional model, weaker + w (this - weaker)
            (`guidance.autoguidance`), with or without labels: of the same data and schedule, but smaller or
            trained for less long. Give `guidance` with it. An earlier average of the same weights is
            `dataclasses.replace(run, params=...)`.
          batch_size: pictures at once; all, up to 256, unless given.
          noise: standard normal [n, H, W, C] to start from; `noise(key, n)` unless given.
          keep, keep_x0: as in `dj.sample`.

        Raises:
          ValueError: for n, batch_size or steps below 1, labels out of range or too few, guidance
            without labels, no labels or guidance where the network was never trained without labels, a
            weaker run that does not fit, a sampler that asks for a variance that the network did not learn,
            noise of another shape, and pictures that are not finite.
        """
        check_whole("n", n)
        check_whole("keep", keep, 0)
        check_key(key)
        limits = {"guidance_interval": guidance_interval, "guidance_rescale": guidance_rescale}
        others = {"steps": steps, "sampler": sampler, "grid": grid, "clip": clip, "threshold": threshold}
        chosen = self._chosen(**limits, **others)
        rows = self.network.labels(n, labels)
        scale = self._scale(n, guidance, labels is not None, weaker, limits)
        start = None if noise is None else self.network.noise(n, noise)
        size = self._batch_size(n, batch_size)
        settings = self._traced(chosen)
        chosen.grid(self.schedule, chosen.steps)  # what it refuses, before there is a progress bar
        weaker_params = None if weaker is None else jax.device_put(weaker.params, replicated(self.mesh))
        parts = []
        for first in tqdm.trange(0, n, size, unit="batch", disable=not progress):
            indices = np.arange(first, first + size)
            filled = np.minimum(indices, n - 1)  # the last batch, with pictures that nobody sees
            each = [None if x is None else x[filled] for x in (rows, start, scale)]
            drawn = draw(
                (self.params, weaker_params),
                key,
                jax.device_put(Pictures(indices, *each), batch_sharding(self.mesh)),
                settings,
                network=self.network,
                weaker=None if weaker is None else weaker.network,
                steps=chosen.steps,
                grid=chosen.grid,
                clip=chosen.clip,
                keep=keep,
                keep_x0=keep_x0,
                mesh=self.mesh,
            )
            parts.append(jax.device_get(drawn))
            _check_finite(parts[-1], first, scale)
        return _joined(parts, n)

    def noise(self, key: jax.Array, n: int) -> np.ndarray:
        """The noise from which `sample(key, n)` starts: standard normal float32 [n, H, W, C]."""
        check_whole("n", n)
        return np.asarray(_first_noise(key, np.arange(n), self.network.image_shape))

    def denoiser(
        self,
        n: int,
        *,
        labels: ArrayLike | None = None,
        guidance: ArrayLike | None = None,
        clip: bool | None = None,
        threshold: float | None = None,
    ) -> Denoise:
        """The network as denoise(x_t, t) for n pictures at once: what `editing` and `sample` take.

        What is not given is as in the run's config; the arguments and errors are those of `sample`.
        """
        check_whole("n", n)
        chosen = self._chosen(clip=clip, threshold=threshold)
        rows = jnp.asarray(self.network.labels(n, labels))
        scale = self._scale(n, guidance, labels is not None, None, {})
        pictures = Pictures(None, rows, None, None if scale is None else jnp.asarray(scale))
        settings = self._traced(chosen)
        return network_denoiser(self.network, None, (self.params, None), pictures, settings, chosen.clip)

    def _chosen(self, **given: Any) -> Sampling:
        return dataclasses.replace(self.sampling, **{k: v for k, v in given.items() if v is not None})

    def _traced(self, chosen: Sampling) -> Settings:
        """The numbers of the settings, as arguments of the compiled program."""
        return Settings(
            self.network.fitted(chosen.sampler),
            tuple(jnp.float32(level) for level in chosen.guidance_interval) or None,
            jnp.float32(chosen.guidance_rescale) if chosen.guidance_rescale else None,
            jnp.float32(chosen.threshold) if chosen.threshold else None,
        )

    def _scale(
        self, n: int, guidance: ArrayLike | None, labelled: bool, weaker: "Run | None", limits: dict[str, Any]
    ) -> np.ndarray | None:
        """The scale of guidance of each picture, float32 [n]; None where none is guided."""
        if weaker is not None:
            check_kind("weaker", weaker, Run, 'dj.load("runs/weaker")')
            self.network.check_weaker(weaker.network)
            if not labelled and weaker.network.num_classes and not weaker.network.unlabelled:
                raise ValueError(f"weaker: was never trained without labels; give {n}, one a picture")
            if guidance is None:
                raise ValueError("weaker: give the scale of guidance with it, such as guidance=2.0")
        wanted = self.sampling.guidance if guidance is None else guidance
        check_number("guidance", wanted)
        scale = np.asarray(wanted, np.float64)
        if scale.shape not in ((), (n,)):
            raise ValueError(f"guidance has shape {scale.shape}: give one number, or {n}, one a picture")
        acting = scale[scale != 1]
        if not labelled and weaker is None:
            if guidance is not None and acting.size:
                raise ValueError(f"guidance = {acting[0]}: needs labels to guide towards")
            acting = acting[:0]
        if guidance is None and not acting.size:
            for name, value in limits.items():
                if value:
                    raise ValueError(f"{name} = {value}: nothing is guided; give labels and guidance=2.0")
        if acting.size and weaker is None and not self.network.unlabelled:
            raise ValueError(
                f"guidance = {acting[0]}: this network was never trained without labels; use 1.0, "
                "or train it with loss.label_drop above 0"
            )
        return np.broadcast_to(scale.astype(np.float32), (n,)) if acting.size else None

    def _batch_size(self, n: int, batch_size: int | None) -> int:
        if batch_size is not None:
            check_whole("batch_size", batch_size)
        size = min(n, 256) if batch_size is None else batch_size
        # The devices share it evenly, and none gets a single picture: the compiler drops a dimension
        # of 1, and then rounds differently.
        return max(2, -(-size // self.mesh.size)) * self.mesh.size


_first_noise = jax.jit(first_noise, static_argnums=2)


def _check_finite(drawn: Any, first: int, scale: np.ndarray | None) -> None:
    if not all(np.isfinite(x).all() for x in jax.tree.leaves(drawn)):
        calmer = "" if scale is None else f"a guidance below {scale.max():g}, "
        raise ValueError(
            f"pictures from {first} on are not finite; use {calmer}more steps, or an earlier checkpoint"
        )


def _joined(parts: list, n: int) -> Any:
    """Batches as one, without what filled up the last; pictures clipped to [-1, 1]."""
    if not isinstance(parts[0], tuple):
        return np.clip(np.concatenate(parts)[:n], -1, 1)
    pictures, frames = zip(*parts, strict=True)
    states = [f._replace(times=None) for f in frames]
    joined = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1)[:, :n], *states)
    return _joined(list(pictures), n), joined._replace(times=frames[0].times)
