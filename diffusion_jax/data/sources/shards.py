"""The array_record files of a TFDS dataset: checked before they are used, and reduced to digests of their content."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from diffusion_jax.data.sources.checks import DataError
from diffusion_jax.runtime.errors import first_line

__all__ = ["digest_shards", "shard_error"]

# Larger data are digested by every k-th example, so that the start takes seconds at most.
_MAX_DIGESTED = 2**30
_AT_ONCE = 64  # examples in memory


def digest_shards(shards: Mapping[Path, int]) -> dict[Path, str]:
    """Returns a digest of the examples in each file, from the number of examples that it must have.

    Raises DataError for a file that is missing, empty, damaged or has another number of examples. Up to 1 GiB every
    example is read; beyond that every k-th, and damage between them shows when it is read.
    """
    sizes = [_size(path) for path in shards]
    stride = max(1, -(-sum(sizes) // _MAX_DIGESTED))
    return {path: _digest(path, examples, stride) for path, examples in shards.items()}


def shard_error(path: str | Path, problem: object) -> DataError:
    """The error for a file that cannot be used."""
    return DataError(f"{path}: {problem}; copy the file again, or prepare the dataset again")


def _size(path: Path) -> int:
    try:
        with path.open("rb") as file:  # the reader would call damaged what may not be read
            size = file.seek(0, os.SEEK_END)
    except OSError as error:
        raise shard_error(path, f"cannot be read ({error.strerror})") from error
    if not size:
        raise shard_error(path, "is empty")
    return size


def _digest(path: Path, examples: int, stride: int) -> str:
    digest = hashlib.sha256(f"{examples} {stride}".encode())
    try:
        for record in _read_records(path, examples, stride):
            digest.update(len(record).to_bytes(8, "little") + record)
    except RuntimeError as error:  # all that the reader raises
        raise shard_error(path, f"cannot be read ({first_line(error)})") from error
    return digest.hexdigest()


def _read_records(path: Path, examples: int, stride: int) -> Iterator[bytes]:
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(str(path), "readahead_buffer_size:0,max_parallelism:0")
    if not reader.ok():
        reader.close()  # raises the reason; until then such a file looks like one without examples
    if reader.num_records() != examples:
        raise shard_error(path, f"has {reader.num_records()} examples, and dataset_info.json says {examples}")
    for first in range(0, examples, stride * _AT_ONCE):
        yield from reader.read(list(range(first, min(first + stride * _AT_ONCE, examples), stride)))
