"""The pictures in a folder, as they lie there: names, sizes and times."""

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import NoReturn

from diffusion_jax.data.sources.base import DataError

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def scan(root: Path) -> dict[str, tuple[int, int]]:
    """Name of each picture, from `root` on and with "/", -> (bytes, ns of its last change).

    In the order of the names. Hidden files and folders, pipes and the like are passed over. Links are
    followed, but a folder is entered once only; a link that leads nowhere has -1 bytes. Raises DataError
    where there is no folder, no picture in it, or something that cannot be read.
    """
    if not root.is_dir():
        raise DataError(f'path = "{root}": {"is no folder" if root.exists() else "there is no such folder"}')
    found, entered = {}, set()
    for folder, folders, files in os.walk(root, onerror=_refuse, followlinks=True):
        here = Path(folder)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if here.resolve() in entered:
            folders.clear()
            continue
        entered.add(here.resolve())
        for file in (here / name for name in files if _is_picture(name)):
            if (state := _state(file)) is not None:
                found[file.relative_to(root).as_posix()] = state
    if not found:
        raise DataError(f'path = "{root}": holds no picture with a name in {", ".join(_SUFFIXES)}')
    return dict(sorted(found.items()))


def stamp(files: dict[str, tuple[int, int]]) -> str:
    """Changes when a picture is added, taken away or changed."""
    return hashlib.sha256(json.dumps(list(files.items())).encode()).hexdigest()


def _is_picture(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES) and not name.startswith(".")


def _state(file: Path) -> tuple[int, int] | None:
    """(bytes, ns of the last change), None for a pipe and the like."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return (-1, 0)
    except OSError as error:
        _refuse(error)
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def _refuse(error: OSError) -> NoReturn:
    raise DataError(f"{error.filename} cannot be read ({error.strerror}); mend or remove it") from error
