"""A trained network that generates images."""

import dataclasses
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jax.sharding import Mesh
from jax.typing import ArrayLike

from diffusion_jax.process.predictions import Prediction
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.run.batch import PerImage, Shared, network_denoiser, sample_batch
from diffusion_jax.run.network import Network
from diffusion_jax.run.settings import Overrides, Sampling
from diffusion_jax.runtime.mesh import batch_sharding, replicated
from diffusion_jax.sampling.denoiser import Denoise
from diffusion_jax.sampling.randomness import check_key, first_noise
from diffusion_jax.validation import check_instance, check_integer


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained network with its settings; `dj.load` makes one.

    Attributes:
      network: the model, its schedule and its prediction.
      params: the parameters, of the moving average.
      sampling: the default settings of `sample`.
      mesh: the devices that generate.
      class_names: a name per class, () if the data have none.
      config: the config of the training run.
      step: the training step of the checkpoint.
    """

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
        """The caption of an image of class `label`. Raises ValueError for an unknown class."""
        self.network.check_labels(np.asarray(label))
        return self.class_names[label] if self.class_names else str(label)

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
        calls, interval (), rescale or threshold 0.

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
            sampler wants a variance that the network did not learn, the noise has another shape, or the images are
            not finite.

        Example:
          run = dj.load("runs/digits")
          x = run.sample(jax.random.key(0), n=16, labels=[3] * 16, steps=20, guidance=2.0)
        """
        check_integer("n", n)
        check_integer("keep", keep, 0)
        check_key(key)
        chosen = (self.sampling if sampling is None else sampling).override(**overrides)
        explicit = sampling is not None or overrides.get("guidance") is not None
        rows = self.network.label_rows(n, labels)
        scale = self._scale(n, chosen, explicit, labels is not None)
        start = None if noise is None else self.network.noise_rows(n, noise)
        size = self._batch_size(n, batch_size)
        shared = self._shared(chosen)
        chosen.grid(self.schedule, chosen.steps)  # raises before there is a progress bar
        weaker = chosen.guidance.weaker
        weaker_params = None if weaker is None else jax.device_put(weaker.params, replicated(self.mesh))
        parts = []
        for first in tqdm.trange(0, n, size, unit="batch", disable=not progress):
            indices = np.arange(first, first + size)
            filled = np.minimum(indices, n - 1)  # fills the last batch with images that are dropped below
            each = [None if x is None else x[filled] for x in (rows, start, scale)]
            sampled = sample_batch(
                (self.params, weaker_params),
                key,
                jax.device_put(PerImage(indices, *each), batch_sharding(self.mesh)),
                shared,
                network=self.network,
                weaker=None if weaker is None else weaker.network,
                steps=chosen.steps,
                grid=chosen.grid,
                clip=chosen.clip,
                keep=keep,
                keep_x0=keep_x0,
                mesh=self.mesh,
            )
            parts.append(jax.device_get(sampled))
            _check_finite(parts[-1], first, scale)
        return _join_batches(parts, n)

    def noise(self, key: jax.Array, n: int) -> np.ndarray:
        """The noise that `sample(key, n)` starts from: standard normal float32 [n, H, W, C]."""
        check_integer("n", n)
        return np.asarray(_first_noise(key, np.arange(n), self.network.image_shape))

    def denoiser(
        self,
        n: int,
        *,
        labels: ArrayLike | None = None,
        sampling: Sampling | None = None,
        **overrides: Unpack[Overrides],
    ) -> Denoise:
        """The network as denoise(x_t, t) for n images at once, as `editing` and `dj.sample` take it.

        The arguments, defaults and errors are those of `sample`; sampler, steps and grid have no effect here.
        """
        check_integer("n", n)
        chosen = (self.sampling if sampling is None else sampling).override(**overrides)
        explicit = sampling is not None or overrides.get("guidance") is not None
        rows = jnp.asarray(self.network.label_rows(n, labels))
        scale = self._scale(n, chosen, explicit, labels is not None)
        images = PerImage(None, rows, None, None if scale is None else jnp.asarray(scale))
        weaker = chosen.guidance.weaker
        networks = self.network, None if weaker is None else weaker.network
        params = self.params, None if weaker is None else weaker.params
        return network_denoiser(*networks, params, images, self._shared(chosen), chosen.clip)

    def _shared(self, chosen: Sampling) -> Shared:
        """The numbers of the settings, as arguments of the compiled program."""
        guidance = chosen.guidance
        return Shared(
            self.network.adapt_sampler(chosen.sampler),
            tuple(jnp.float32(level) for level in guidance.interval) or None,
            jnp.float32(guidance.rescale) if guidance.rescale else None,
            jnp.float32(chosen.threshold) if chosen.threshold else None,
        )

    def _scale(self, n: int, chosen: Sampling, explicit: bool, labelled: bool) -> np.ndarray | None:
        """The guidance scale of each image, float32 [n]; None if no image is guided.

        Guidance of the run's config is for images with labels; asked for explicitly, it needs them.
        """
        weaker, scale = chosen.guidance.weaker, np.asarray(chosen.guidance.scale, np.float64)
        if weaker is not None:
            check_instance("weaker", weaker, Run, 'dj.load("runs/weaker")')
            self.network.check_weaker(weaker.network, n, labelled)
        if scale.shape not in ((), (n,)):
            raise ValueError(f"guidance has shape {scale.shape}: must be one number, or {n}, one per image")
        acting = scale[scale != 1]
        if not acting.size or not (labelled or weaker is not None or explicit):
            return None
        if not labelled and weaker is None:
            raise ValueError(f"guidance = {acting[0]}: needs labels to guide towards; give labels, or guidance 1")
        if weaker is None and not self.network.unlabelled:
            raise ValueError(
                f"guidance = {acting[0]}: this network was never trained without labels; use 1.0, "
                "or train it with loss.label_drop above 0"
            )
        return np.broadcast_to(scale.astype(np.float32), (n,))

    def _batch_size(self, n: int, batch_size: int | None) -> int:
        if batch_size is not None:
            check_integer("batch_size", batch_size)
        size = min(n, 256) if batch_size is None else batch_size
        # The devices share it evenly, and none gets a single image: the compiler drops a dimension
        # of 1, and then rounds differently.
        return max(2, -(-size // self.mesh.size)) * self.mesh.size


_first_noise = jax.jit(first_noise, static_argnums=2)


def _check_finite(sampled: Any, first: int, scale: np.ndarray | None) -> None:
    if not all(np.isfinite(x).all() for x in jax.tree.leaves(sampled)):
        calmer = "" if scale is None else f"a guidance below {scale.max():g}, "
        raise ValueError(f"images from {first} on are not finite; use {calmer}more steps, or an earlier checkpoint")


def _join_batches(parts: list, n: int) -> Any:
    """Batches as one, without the fill of the last; images clipped to [-1, 1]."""
    if not isinstance(parts[0], tuple):
        return np.clip(np.concatenate(parts)[:n], -1, 1)
    images, frames = zip(*parts, strict=True)
    states = [f._replace(times=None) for f in frames]
    joined = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1)[:, :n], *states)
    return _join_batches(list(images), n), joined._replace(times=frames[0].times)
