"""Decoded images on disk: an .npy file with a checksum for each image, and a JSON file that describes it."""

import dataclasses
import hashlib
import json
import logging
import os
import weakref
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from diffusion_jax.data.sources.checks import DataError
from diffusion_jax.runtime.errors import first_line
from diffusion_jax.runtime.files import replace_text
from diffusion_jax.runtime.user_cache import user_cache
from diffusion_jax.validation import local_path

__all__ = ["Build", "Cache", "cache_directory", "open_or_build"]

log = logging.getLogger(__name__)

# Calls its argument with each image in turn; returns what else to store about them, as JSON values.
Build = Callable[[Callable[[np.ndarray], object]], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Cache:
    """An open cache: random access to images, from any number of threads.

    The file is read, not memory-mapped: a mapped file that is cut short, or whose disk fails, kills the process.

    Attributes:
      path: the .npy file, an array of dtype [("image", uint8, (H, W, C)), ("crc32", uint32)].
      about: "stamp", "count", "digest" (SHA-256 of all pixels) and what the builder returned.
    """

    path: Path
    about: dict[str, Any]
    _dtype: np.dtype
    _offset: int  # of the first image, in bytes
    _descriptor: int  # of the open file, which stays readable if another process replaces it

    def __len__(self) -> int:
        return self.about["count"]

    def __getitem__(self, index: int) -> np.ndarray:
        """Returns image `index`, uint8 [H, W, C]. Raises DataError if it is cut short, damaged or cannot be read."""
        size = self._dtype.itemsize
        offset = self._offset + range(len(self))[index] * size
        try:
            data = os.pread(self._descriptor, size, offset)
        except OSError as error:
            raise self._error(index, f"cannot be read, {error.strerror}") from error
        if len(data) < size:
            raise self._error(index, "was cut short while it was in use")
        image, crc32 = np.frombuffer(data, self._dtype)[0]
        if zlib.crc32(image) != crc32:
            raise self._error(index, "is damaged")
        return image

    def _error(self, index: int, problem: str) -> DataError:
        return DataError(f"cache {self.path} {problem} (image {index}); delete it and start again")


def cache_directory(cache_dir: str) -> Path:
    """Returns the directory of the caches below `cache_dir`; "" means $XDG_CACHE_HOME or ~/.cache."""
    return local_path("cache_dir", cache_dir or user_cache()).resolve() / "diffusion_jax"


def open_or_build(path: Path, stamp: str, image_shape: tuple[int, int, int], build: Build) -> Cache:
    """Opens the cache that the JSON file `path` describes, or builds it if it is missing, damaged or out of date.

    It is out of date if its stamp differs. It is replaced atomically; one process builds it while the others
    wait. Raises DataError if it cannot be written.
    """
    cache = _open_cache(path, stamp)
    if cache is not None:
        return cache
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A soft lock, filelock's substitute on file systems without locks, would stay behind after a kill.
        with filelock.FileLock(path.with_suffix(".lock"), fallback_to_soft=False):
            cache = _open_cache(path, stamp, warn=True)
            if cache is None:
                _write_cache(path, stamp, image_shape, build)
                cache = _open_cache(path, stamp)
    except OSError as error:
        raise _unwritable(path, first_line(error)) from error
    if cache is None:
        raise _unwritable(path, "it reads differently from what was written")
    return cache


def _open_cache(path: Path, stamp: str, warn: bool = False) -> Cache | None:
    """Opens a cache; returns None if it is missing, damaged or out of date. `warn` logs damage."""
    if not path.is_file():
        return None
    try:
        text = path.read_text()
        about, images = json.loads(text), _images_path(path, text)
        with images.open("rb") as file:
            np.lib.format.read_magic(file)
            (count,), _, dtype = np.lib.format.read_array_header_1_0(file)
            size = file.tell() + count * dtype.itemsize
            if (os.fstat(file.fileno()).st_size, about["count"]) != (size, count):
                raise ValueError(f"{images.name} must have {size} bytes for {about['count']} images")
            if about["stamp"] != stamp:
                return None
            cache = Cache(images, about, dtype, file.tell(), os.dup(file.fileno()))
    except (OSError, ValueError, LookupError, TypeError) as error:
        if warn:
            log.warning("cache %s is damaged (%s); building it again", path, first_line(error))
        return None
    weakref.finalize(cache, os.close, cache._descriptor)
    return cache


def _write_cache(path: Path, stamp: str, image_shape: tuple[int, int, int], build: Build) -> None:
    """Writes the images, then the JSON file: a kill leaves the old cache or the new one."""
    dtype = np.dtype([("image", np.uint8, image_shape), ("crc32", "<u4")])
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False}
    digest, count, new = hashlib.sha256(), 0, path.with_suffix(".new")

    def write(image: np.ndarray) -> None:
        nonlocal count
        pixels = image.tobytes()
        file.write(pixels + zlib.crc32(pixels).to_bytes(4, "little"))
        digest.update(pixels)
        count += 1

    try:
        with new.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header | {"shape": (0,)})
            about = build(write)
            file.seek(0)  # the header has the same length for every count
            np.lib.format.write_array_header_1_0(file, header | {"shape": (count,)})
            file.flush()
            os.fsync(file.fileno())
        text = json.dumps(about | {"stamp": stamp, "count": count, "digest": digest.hexdigest()})
        new.replace(_images_path(path, text))
        replace_text(path, text)
    finally:
        new.unlink(missing_ok=True)
    for other in path.parent.glob(f"{path.stem}.*"):  # older caches, and files of killed processes
        if other not in (path, path.with_suffix(".lock"), _images_path(path, text)):
            other.unlink()


def _images_path(path: Path, text: str) -> Path:
    """The file of the images, named by a checksum of the JSON file's text: damage there leads to no file."""
    return path.with_suffix(f".{hashlib.sha256(text.encode()).hexdigest()[:16]}.npy")


def _unwritable(path: Path, why: str) -> DataError:
    return DataError(f'cache_dir = "{path.parent.parent}": cannot be written ({why}); use another directory')
