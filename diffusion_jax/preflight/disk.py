"""The disk space that the checkpoints of a run need, beside what is free."""

import dataclasses
import os
import shutil
from pathlib import Path

import jax

from diffusion_jax.config.experiment import Experiment
from diffusion_jax.runtime.place import Place, complete_steps, is_remote
from diffusion_jax.workdir.layout import abstract_state, checkpoint_items

__all__ = ["Disk", "measure_disk"]

# Bytes that a checkpoint has for each array beside its values: names, sharding, fingerprint, index. Measured.
_PER_ARRAY = 1100


@dataclasses.dataclass(frozen=True)
class Disk:
    """What the checkpoints need.

    Attributes:
      checkpoint: bytes of one checkpoint, not compressed: parameters, their average, the optimizer state, and what
        describes each array.
      kept: number of checkpoints that are kept.
      present: number of checkpoints that are there already.
      free: bytes that are free in the file system of the directory; None in a bucket, or without a directory.

    >>> Disk(checkpoint=100, kept=3, present=1, free=250).fits  # three more: one is written before one is removed
    False
    """

    checkpoint: int
    kept: int
    present: int = 0
    free: int | None = None

    @property
    def needed(self) -> int:
        """Bytes that the run will still take at most."""
        return self.checkpoint * max(0, self.kept + 1 - self.present)

    @property
    def fits(self) -> bool:
        return self.free is None or self.needed <= self.free


def measure_disk(experiment: Experiment, directory: Place | None) -> Disk:
    """What the checkpoints of a run in `directory` need. Raises OSError if the directory cannot be written."""
    leaves = jax.tree.leaves(checkpoint_items(abstract_state(experiment)))
    size = sum(leaf.size * leaf.dtype.itemsize + _PER_ARRAY for leaf in leaves)
    kept = experiment.plan.keep_checkpoints
    if directory is None:
        return Disk(size, kept)
    present = len(complete_steps(directory / "checkpoints"))
    return Disk(size, kept, present, None if is_remote(directory) else _measure_free(Path(directory).absolute()))


def _measure_free(directory: Path) -> int:
    """Bytes that are free where the directory is, or will be."""
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        reason = "cannot be written" if existing.is_dir() else "is not a directory"
        raise OSError(f"workdir {directory} cannot be written ({existing} {reason}); use another directory")
    return shutil.disk_usage(existing).free
