"""Decoded pictures on disk: one array_record file, whose last record tells what the others are."""

import contextlib
import dataclasses
import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grain
from array_record.python.array_record_module import ArrayRecordWriter

from diffusion_jax.data.sources.base import DataError
from diffusion_jax.runtime.errors import first_line

log = logging.getLogger(__name__)

_OPTIONS = "group_size:1"  # a record can be read without its neighbours

# write(record) -> None, for each record in turn; returns what is to be told of them, as JSON values.
Build = Callable[[Callable[[bytes], None]], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Cache:
    """An open cache: random access to records, from any number of threads.

    Attributes:
      file: where it lies.
      about: what was told of the records when they were written.
    """

    file: Path
    about: dict[str, Any]
    _records: grain.sources.ArrayRecordDataSource

    def __len__(self) -> int:
        return len(self._records) - 1

    def __getitem__(self, index: int) -> bytes:
        """Raises DataError where the file has been damaged since it was opened, or in this very record."""
        try:
            return self._records[index]
        except RuntimeError as error:
            raise DataError(f"cache {self.file} is damaged ({first_line(error)}); delete it and start again") from error


def directory(cache_dir: str) -> Path:
    """Where caches lie: `cache_dir`, or the user's own folder for caches where ""."""
    try:
        home = os.environ.get("XDG_CACHE_HOME", "")
        base = Path(cache_dir or (home if os.path.isabs(home) else "~/.cache")).expanduser()
    except RuntimeError:
        raise DataError(f'cache_dir = "{cache_dir}": there is no home folder; name another') from None
    return base.resolve() / "diffusion_jax"


def open_or_build(file: Path, stamp: str, build: Build) -> Cache:
    """The cache in `file`; built anew where there is none, it is damaged or it has another stamp.

    Whole or not there at any time. Of several processes one builds, and the others wait for it. Raises
    DataError where it cannot be written.
    """
    cache = _read(file, stamp)
    if cache is not None:
        return cache
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _alone(file.with_suffix(".lock")):
            cache = _read(file, stamp, say=True)
            if cache is None:
                _write(file, stamp, build)
                cache = _read(file, stamp)
    except OSError as error:
        raise _unwritable(file, first_line(error)) from error
    if cache is None:
        raise _unwritable(file, "what was written there is not what is read")
    return cache


def _read(file: Path, stamp: str, say: bool = False) -> Cache | None:
    """The cache in `file`, None where there is none or no good one; `say` warns of damage."""
    if not file.is_file():
        return None
    try:
        records = grain.sources.ArrayRecordDataSource(str(file))
        # This opens the file for good: should another process replace it, it is still read to its end.
        about = json.loads(records[len(records) - 1])
        if about["count"] != len(records) - 1:
            raise ValueError(f"{len(records) - 1} records, should be {about['count']}")
        return Cache(file, about, records) if about["stamp"] == stamp else None
    except (RuntimeError, ValueError, LookupError, TypeError) as error:
        if say:
            log.warning("cache %s is damaged (%s); it is built anew", file, first_line(error))
        return None


def _write(file: Path, stamp: str, build: Build) -> None:
    """Writes beside `file` and renames: a kill leaves the old cache or the new one."""
    beside = file.with_suffix(".new")
    count = 0

    def write(record: bytes) -> None:
        nonlocal count
        with _telling(file):
            writer.write(record)
        count += 1

    try:
        with _telling(file):
            writer = ArrayRecordWriter(str(beside), _OPTIONS)
        try:
            about = build(write)
            write(json.dumps(about | {"stamp": stamp, "count": count}).encode())
        finally:
            with _telling(file):
                writer.close()
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Holds a lock, which ends with the process; waits for another that has it."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _telling(file: Path) -> Iterator[None]:
    """Tells what array_record raises as a DataError, and not what is raised in decoding."""
    try:
        yield
    except RuntimeError as error:
        raise _unwritable(file, first_line(error)) from error


def _unwritable(file: Path, why: str) -> DataError:
    return DataError(f'cache_dir = "{file.parent.parent}": cannot be written ({why}); name another')
