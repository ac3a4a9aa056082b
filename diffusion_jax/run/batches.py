"""How n images are divided into batches and put together again."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from diffusion_jax.run.batch import Arguments, PerImage, Static
from diffusion_jax.runtime.mesh import replicated

__all__ = [
    "abstract_rows",
    "batch_arguments",
    "check_finite",
    "choose_batch_size",
    "join_batches",
    "place_params",
    "split_into_batches",
    "take_rows",
]

# At least two images per device, because the compiler drops a dimension of 1 and then rounds differently.
MIN_IMAGES = 2


def choose_batch_size(n: int, batch_size: int | None, devices: int) -> int:
    """The number of images per batch, a multiple of the number of devices.

    >>> choose_batch_size(1000, None, 8), choose_batch_size(1, None, 1)
    (256, 2)
    """
    size = min(n, 256) if batch_size is None else batch_size
    return max(MIN_IMAGES, -(-size // devices)) * devices


def check_finite(sampled: Any, first: int, scale: np.ndarray | None) -> None:
    """Raises ValueError unless the images from number `first` on are finite; `scale` is their guidance.

    >>> check_finite(np.full((1, 2, 2, 1), np.nan), 4, None)
    Traceback (most recent call last):
    ...
    ValueError: images from 4 on are not finite; use more steps, or an earlier checkpoint
    """
    if not all(np.isfinite(x).all() for x in jax.tree.leaves(sampled)):
        lower = "" if scale is None else f"a guidance below {scale.max():g}, "
        raise ValueError(f"images from {first} on are not finite; use {lower}more steps, or an earlier checkpoint")


def split_into_batches(n: int, size: int, scale: np.ndarray | None) -> list[np.ndarray]:
    """The indices of the images of each batch, `size` of them; the last image of a kind fills up its last batch.

    Images of guidance 1 have batches of their own, because the program without guidance computes them, whatever the
    scales of the others are; the two programs round differently.
    """
    guided = np.zeros(n, bool) if scale is None else scale != 1
    kinds = [kind for kind in (np.flatnonzero(~guided), np.flatnonzero(guided)) if len(kind)]
    starts = [(kind, first) for kind in kinds for first in range(0, len(kind), size)]
    return [kind[np.minimum(np.arange(first, first + size), len(kind) - 1)] for kind, first in starts]


def take_rows(indices: np.ndarray, labels: Any, noise: Any | None, scale: Any | None) -> PerImage:
    """The inputs of the images of one batch of `split_into_batches`; no scale if guidance does not act on them."""
    images = PerImage(indices, *(None if rows is None else rows[indices] for rows in (labels, noise, scale)))
    guided = images.scale is not None and images.scale[0] != 1
    return images if guided else images._replace(scale=None)


def abstract_rows(images: PerImage, sharding: jax.sharding.Sharding) -> PerImage:
    """The shapes and dtypes that the inputs of a batch have on the devices."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, jax.dtypes.canonicalize_dtype(x.dtype), sharding=sharding), images
    )


def place_params(inputs: Arguments, mesh: Mesh) -> tuple[Any, Any]:
    """The parameters of the network, which are on the devices, and those of the weaker one, which are put there."""
    params, weaker = inputs.params
    return params, None if weaker is None else jax.device_put(weaker, replicated(mesh))


def batch_arguments(
    inputs: Arguments,
    params: tuple[Any, Any],
    key: Any,
    images: PerImage,
    mesh: Mesh,
    keep: int = 0,
    keep_x0: bool = False,
) -> tuple[tuple, Static]:
    """The arguments of `run_batch` for one batch: the arrays, and what its program is compiled for."""
    guided, settings = images.scale is not None, inputs.settings
    static: Static = {
        "network": inputs.networks[0],
        "weaker": inputs.networks[1] if guided else None,
        "steps": settings.steps,
        "grid": settings.grid,
        "clip": settings.clip,
        "keep": keep,
        "keep_x0": keep_x0,
        "mesh": mesh,
    }
    return ((params[0], params[1] if guided else None), key, images, inputs.shared), static


def join_batches(batches: list, indices: np.ndarray) -> Any:
    """Batches as one, each image once and in the order of its index; images clipped to [-1, 1]."""
    places = np.unique(indices, return_index=True)[1]
    if not isinstance(batches[0], tuple):
        return np.clip(np.concatenate(batches)[places], -1, 1)
    images, frames = zip(*batches, strict=True)
    states = [f._replace(times=None) for f in frames]
    joined = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1)[:, places], *states)
    return join_batches(list(images), indices), joined._replace(times=frames[0].times)
