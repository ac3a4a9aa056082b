"""Batches: batch k is a pure function of (source, settings, seed, k)."""

import dataclasses
from collections.abc import Iterator

import grain
import numpy as np

from diffusion_jax.data.sources import Source

Batch = dict[str, np.ndarray]

_EPOCHS = 2**31


@dataclasses.dataclass(frozen=True)
class Batches:
    """The endless row of training batches of a source.

    Each epoch is shuffled anew; batches run on over its end, so that none is short and nothing is dropped.
    Pictures stay uint8.

    Attributes:
      source: what to read.
      batch_size: global, over all processes.
      seed: of the order and the flips.
      flip: mirror each picture left to right with probability 1/2, anew in each epoch.
      process, processes: which contiguous part of every global batch is this process'.
    """

    source: Source
    batch_size: int
    seed: int = 0
    flip: bool = False
    process: int = 0
    processes: int = 1

    def __post_init__(self):
        if not 0 <= self.process < self.processes:
            raise ValueError(f"process = {self.process}: must be from 0 to processes - 1, of {self.processes}")
        if self.batch_size < 1 or self.batch_size % self.processes:
            raise ValueError(
                f"batch_size = {self.batch_size}: must be positive, divisible by {self.processes} processes"
            )
        if len(self.source) < 1:
            raise ValueError("the source is empty: nothing to train on")

    def __getitem__(self, k: int) -> Batch:
        """Batch k: "image" uint8 [B, H, W, C] and, if the source has labels, "label" int32 [B]."""
        return self._dataset()[k]

    def iterate(self, start: int = 0, threads: int = 4, ahead: int = 8) -> Iterator[Batch]:
        """Batches start, start + 1, ..., read by `threads` threads, up to `ahead` batches ahead."""
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
        return iter(self._dataset()[start:].to_iter_dataset(options))

    def _dataset(self) -> grain.MapDataset:
        dataset = grain.MapDataset.source(self.source.rows).seed(self.seed)
        # Not without end: that has no length left for slices.
        dataset = dataset.shuffle().repeat(_EPOCHS)
        if self.flip:
            dataset = dataset.random_map(_flip)
        # A process takes a contiguous part of each batch: with [process::processes] on single examples
        # the order inside the global batch would depend on the number of processes.
        return dataset.batch(self.batch_size // self.processes)[self.process :: self.processes]


def _flip(row: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    return row | {"image": row["image"][:, ::-1]} if rng.random() < 0.5 else row


def in_order(source: Source, batch_size: int, limit: int = 0) -> Iterator[tuple[Batch, np.ndarray]]:
    """The first `limit` examples (0: all) once, in order: (batch, valid bool [B]).

    The last batch is filled up with example 0, which is not valid there.
    """
    n = min(len(source), limit or len(source))
    for first in range(0, n, batch_size):
        valid = np.arange(first, first + batch_size) < n
        indices = np.where(valid, np.arange(first, first + batch_size), 0)
        rows = [source.rows[int(i)] for i in indices]
        yield {name: np.stack([row[name] for row in rows]) for name in rows[0]}, valid
