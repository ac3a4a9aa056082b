"""Examples in the memory of the devices, where batches are gathered from them."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from diffusion_jax.data.pipeline import read_examples
from diffusion_jax.data.sources import Source
from diffusion_jax.runtime.mesh import batch_sharding, replicated
from diffusion_jax.runtime.progress import progress_bar

__all__ = ["count_bytes", "make_gather"]

# Examples that are read at a time.
_PART = 1024

Arrays = dict[str, jax.Array]


def make_gather(source: Source, mesh: Mesh, stacked: bool = False) -> Callable[[Arrays], Arrays]:
    """Copies all examples to every device; returns the function from the choices of a batch to the batch.

    The choices are those of `Batches.iterate_choices` on the devices: {"index": int32 [B], "flip": bool [B]}, with
    `stacked` [K, B]. The batch is the one that `Batches` has, split over the devices.
    """
    examples = {
        name: jax.make_array_from_process_local_data(replicated(mesh), array)
        for name, array in _read_all(source).items()
    }
    gather = jax.jit(_gather, out_shardings=batch_sharding(mesh, stacked))
    return functools.partial(gather, examples)


def count_bytes(source: Source) -> int:
    """The memory that the examples need on every device."""
    image = math.prod(source.image_shape) * source.dtype.itemsize
    return len(source) * (image + (np.dtype(np.int32).itemsize if source.num_classes else 0))


def _read_all(source: Source) -> dict[str, np.ndarray]:
    """All examples."""
    starts = progress_bar(range(0, len(source), _PART), "reading images", -(-len(source) // _PART), delay=2)
    parts = [read_examples(source, np.arange(first, min(first + _PART, len(source)))) for first in starts]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _gather(examples: Arrays, choices: Arrays) -> Arrays:
    batch = {name: array[choices["index"]] for name, array in examples.items()}
    image, flip = batch["image"], choices["flip"][..., None, None, None]
    return batch | {"image": jnp.where(flip, image[..., ::-1, :], image)}
