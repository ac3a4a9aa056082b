"""The image files of a directory: their names, sizes and times of modification."""

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import NoReturn

from diffusion_jax.data.sources.base import DataError

__all__ = ["make_stamp", "scan"]

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def scan(root: Path) -> dict[str, tuple[int, int]]:
    """Returns name -> (bytes, time of modification in ns) of each image, in the order of the names.

    Names are relative to `root`, with "/". Hidden files and directories, pipes and the like are ignored. Links
    are followed, but each directory is visited once; a broken link has -1 bytes. Raises DataError if there is no
    directory, if it has no images, or if something cannot be read.
    """
    if not root.is_dir():
        raise DataError(f'path = "{root}": {"is not a directory" if root.exists() else "does not exist"}')
    found, visited = {}, set()
    for folder, folders, files in os.walk(root, onerror=_raise_unreadable, followlinks=True):
        here = Path(folder)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if here.resolve() in visited:
            folders.clear()
            continue
        visited.add(here.resolve())
        for file in (here / name for name in files if _is_image(name)):
            if (state := _state(file)) is not None:
                found[file.relative_to(root).as_posix()] = state
    if not found:
        raise DataError(f'path = "{root}": has no images; their names must end in {", ".join(_SUFFIXES)}')
    return dict(sorted(found.items()))


def make_stamp(files: dict[str, tuple[int, int]]) -> str:
    """Returns a checksum that changes when an image is added, removed or changed."""
    return hashlib.sha256(json.dumps(list(files.items())).encode()).hexdigest()


def _is_image(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES) and not name.startswith(".")


def _state(file: Path) -> tuple[int, int] | None:
    """(bytes, time of modification in ns); None for a pipe and the like."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return (-1, 0)
    except OSError as error:
        _raise_unreadable(error)
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def _raise_unreadable(error: OSError) -> NoReturn:
    raise DataError(f"{error.filename} cannot be read ({error.strerror}); repair or remove it") from error
