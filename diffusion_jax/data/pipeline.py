"""Batches: batch k is a pure function of (source, settings, seed, k)."""

import dataclasses
from collections.abc import Iterator

import grain
import numpy as np

from diffusion_jax.data.sources import Source
from diffusion_jax.data.sources.checks import check_row
from diffusion_jax.validation import Checked, below, divides, integer

__all__ = ["Batch", "Batches", "in_order"]

Batch = dict[str, np.ndarray]

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
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
        return iter(self._dataset()[start:].to_iter_dataset(options))

    def _dataset(self) -> grain.MapDataset:
        dataset = grain.MapDataset.source(_CheckedRows(self.source)).seed(self.seed)
        # A finite number: an infinite dataset has no length and cannot be sliced.
        dataset = dataset.shuffle().repeat(_EPOCHS)
        if self.flip:
            dataset = dataset.random_map(_flip)
        # Each process takes a contiguous part of each batch: with [process::processes] on single examples
        # the order within the global batch would depend on the number of processes.
        return dataset.batch(self.batch_size // self.processes)[self.process :: self.processes]


@dataclasses.dataclass(frozen=True, repr=False)
class _CheckedRows:
    """The examples of a source, checked: the device would narrow other types without a word."""

    source: Source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        source = self.source
        return check_row(source.rows[index], f"example {index}", source.image_shape, source.num_classes)


def _flip(row: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    return row | {"image": row["image"][:, ::-1]} if rng.random() < 0.5 else row


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
    n, examples = min(len(source), limit or len(source)), _CheckedRows(source)
    for first in range(0, n, batch_size):
        indices = np.arange(first, first + batch_size)[share]
        valid = indices < n
        indices = np.where(valid, indices, 0)
        rows = [examples[int(i)] for i in indices]
        yield {name: np.stack([row[name] for row in rows]) for name in rows[0]}, valid
