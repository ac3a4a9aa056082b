"""Batches: batch k is a pure function of (source, settings, seed, k)."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np

from diffusion_jax.data.sources import Source
from diffusion_jax.data.sources.base import ArrayRows
from diffusion_jax.data.sources.checks import check_row
from diffusion_jax.validation import Checked, below, divides, integer

__all__ = ["Batch", "Batches", "Choices", "flip_images", "in_order", "read_examples"]

Batch = dict[str, np.ndarray]
Choices = dict[str, np.ndarray]  # the examples of a batch: "index" int32 [B], and "flip" bool [B], to be mirrored

_EPOCHS = 2**31


@dataclasses.dataclass(frozen=True)
class Batches(Checked):
    """The endless sequence of training batches of a source.

    Each epoch is shuffled differently. Batches continue across the end of an epoch, so that none is short and no
    example is dropped. Images keep their dtype.

    Attributes:
      source: the examples.
      batch_size: global, over all processes.
      seed: of the order and the flips.
      flip: mirror each image left to right with probability 1/2, drawn again in each epoch.
      process: index of this process, which reads a contiguous part of every global batch.
      processes: number of processes.

    >>> source, _ = dj.sources.Digits().open()
    >>> batches = Batches(source, batch_size=16, seed=0)
    >>> batches[1000]["image"].shape
    (16, 8, 8, 1)
    """

    source: Source
    batch_size: int = dataclasses.field(metadata=integer(1))
    seed: int = 0
    flip: bool = False
    process: int = dataclasses.field(default=0, metadata=integer(0) | below("processes"))
    processes: int = dataclasses.field(default=1, metadata=integer(1) | divides("batch_size"))

    def __post_init__(self):
        super().__post_init__()
        if len(self.source) < 1:
            raise ValueError("source is empty: must have at least one example")

    def __getitem__(self, k: int) -> Batch:
        """Returns batch k: "image" uint8 or float32 [B, H, W, C] and, if the source has labels, "label" int32 [B]."""
        return self._dataset()[k]

    def iterate(self, start: int = 0, threads: int = 4, ahead: int = 8) -> Iterator[Batch]:
        """Yields batches start, start + 1, ..., read by `threads` threads, up to `ahead` batches ahead."""
        return _iterate(self._dataset(), start, threads, ahead)

    def iterate_choices(self, start: int = 0, threads: int = 1, ahead: int = 8) -> Iterator[Choices]:
        """Yields which examples batches start, start + 1, ... consist of, without reading any."""
        return _iterate(self._choices(), start, threads, ahead)

    def _dataset(self) -> grain.MapDataset:
        return self._choices().map(self._read)

    def _read(self, choices: Choices) -> Batch:
        return flip_images(read_examples(self.source, choices["index"]), choices["flip"])

    def _choices(self) -> grain.MapDataset:
        # A finite number: an infinite dataset has no length and cannot be sliced.
        order = grain.MapDataset.range(len(self.source)).seed(self.seed).shuffle().repeat(_EPOCHS)
        order = order.random_map(_draw_flip) if self.flip else order.map(lambda index: (index, False))
        # Each process takes a contiguous part of each batch: with [process::processes] on single examples
        # the order within the global batch would depend on the number of processes.
        return order.batch(self.batch_size // self.processes, batch_fn=_as_choices)[self.process :: self.processes]


def _iterate(dataset: grain.MapDataset, start: int, threads: int, ahead: int) -> Iterator[Any]:
    return iter(dataset[start:].to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)))


def _draw_flip(index: int, rng: np.random.Generator) -> tuple[int, bool]:
    return index, rng.random() < 0.5


def _as_choices(choices: Sequence[tuple[int, bool]]) -> Choices:
    index, flip = zip(*choices, strict=True)
    return {"index": np.array(index, np.int32), "flip": np.array(flip)}


def read_examples(source: Source, index: np.ndarray) -> Batch:
    """The examples with these indices, stacked and checked: the device would narrow other types without a word."""
    if isinstance(source.rows, ArrayRows):
        return source.rows.take(index)
    shape, num_classes = source.image_shape, source.num_classes
    rows = [check_row(source.rows[int(i)], f"example {i}", shape, num_classes) for i in index]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def flip_images(batch: Batch, flip: np.ndarray) -> Batch:
    """Mirrors the images where `flip`, bool [B], left to right."""
    if not flip.any():
        return batch
    return batch | {"image": np.where(flip[:, None, None, None], batch["image"][:, :, ::-1], batch["image"])}


def in_order(
    source: Source, batch_size: int, limit: int = 0, share: slice = slice(None)
) -> Iterator[tuple[Batch, np.ndarray]]:
    """Yields the first `limit` examples (0: all) once, in order, as (batch, valid bool [B]).

    The last batch is filled up with example 0, which is not valid there. Of each batch only the rows of `share` are
    read: those of one process.

    >>> _, held_out = dj.sources.Digits().open()
    >>> [int(valid.sum()) for batch, valid in in_order(held_out, batch_size=100)]
    [100, 80]
    """
    n = min(len(source), limit or len(source))
    for first in range(0, n, batch_size):
        indices = np.arange(first, first + batch_size)[share]
        valid = indices < n
        indices = np.where(valid, indices, 0)
        yield read_examples(source, indices), valid
