"""The images of one call of `Run.sample` as batches, and the batches as one array again."""

from typing import Any

import jax
import numpy as np

from diffusion_jax.run.batch import PerImage

__all__ = ["abstract_rows", "check_finite", "join_batches", "split_into_batches", "take_rows"]


def check_finite(sampled: Any, first: int, scale: np.ndarray | None) -> None:
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


def join_batches(batches: list, indices: np.ndarray) -> Any:
    """Batches as one, each image once and in the order of its index; images clipped to [-1, 1]."""
    places = np.unique(indices, return_index=True)[1]
    if not isinstance(batches[0], tuple):
        return np.clip(np.concatenate(batches)[places], -1, 1)
    images, frames = zip(*batches, strict=True)
    states = [f._replace(times=None) for f in frames]
    joined = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1)[:, places], *states)
    return join_batches(list(images), indices), joined._replace(times=frames[0].times)
