"""The image files of a directory: their names, sizes and times of modification."""

import dataclasses
import hashlib
import json
import os
import stat
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NoReturn

from diffusion_jax.data.sources.checks import DataError
from diffusion_jax.data.sources.formats import explain_missing, read_suffixes
from diffusion_jax.validation import compose

__all__ = ["File", "Listing", "make_stamp", "scan"]

_MAX_ENDINGS = 8  # that are told one by one


@dataclasses.dataclass(frozen=True)
class File:
    """One image file.

    Attributes:
      path: where it is, relative to the directory, as the disk writes it.
      size: in bytes; -1 for a broken link.
      changed: time of modification in ns.
    """

    path: str
    size: int
    changed: int


@dataclasses.dataclass(frozen=True)
class Listing:
    """The files of a directory.

    Attributes:
      images: name -> file, in the order of the names. Accents in a name are composed (Unicode's NFC), however the
        disk writes them, so that a copy from another system has the same names in the same order.
      unused: the other files, as ending -> number; "" for those without an ending.
    """

    images: dict[str, File]
    unused: Counter[str]

    def describe_unused(self) -> str:
        """Returns one line about the files that are not used; "" if there are none.

        >>> Listing({}, Counter({".txt": 30, ".psd": 30, "": 2})).describe_unused()
        '62 files are not used: 30 .psd, 30 .txt, 2 without an ending'
        """
        if not self.unused:
            return ""
        ordered = sorted(self.unused.items(), key=lambda item: (-item[1], item[0]))
        told = [f"{number} {ending or 'without an ending'}" for ending, number in ordered[:_MAX_ENDINGS]]
        if rest := ordered[_MAX_ENDINGS:]:
            told.append(f"{sum(number for _, number in rest)} with {len(rest)} other endings")
        total = self.unused.total()
        files = f"{total} file{'s are' if total > 1 else ' is'} not used"
        return f"{files}: {', '.join(told)}{explain_missing(set(self.unused))}"


def scan(root: Path, ignored: Collection[Path] = ()) -> Listing:
    """Returns the images of a directory and its subdirectories, and which other files there are.

    Names are relative to `root`, with "/". Hidden files and directories, pipes and the like, and the `ignored` files
    are left out. Links are followed, but each directory is visited once. Raises DataError if there is no directory,
    if it has no images, if the names of two are the same text, or if something cannot be read.
    """
    if not root.is_dir():
        raise DataError(f'path = "{root}": {"is not a directory" if root.exists() else "does not exist"}')
    images: dict[str, File] = {}
    unused: Counter[str] = Counter()
    suffixes = read_suffixes()
    for path in _walk(root):
        ending = path.suffix.lower()
        if ending in suffixes:
            _add_image(images, root, path)
        elif path not in ignored and os.path.isfile(path):
            unused[ending] += 1
    listing = Listing(dict(sorted(images.items())), unused)
    if not images:
        found = f" ({listing.describe_unused()})" if unused else ""
        raise DataError(f'path = "{root}": has no images{found}; their names must end in {", ".join(suffixes)}')
    return listing


def make_stamp(files: dict[str, File]) -> str:
    """Returns a checksum that changes when an image is added, removed or changed."""
    states = [[name, file.size, file.changed] for name, file in files.items()]
    return hashlib.sha256(json.dumps(states).encode()).hexdigest()


def _walk(root: Path) -> Iterator[Path]:
    """Every file that is not hidden; each directory once."""
    visited = set()
    for folder, folders, files in os.walk(root, onerror=_raise_unreadable, followlinks=True):
        here = Path(folder)
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=compose)
        if here.resolve() in visited:
            folders.clear()
            continue
        visited.add(here.resolve())
        yield from (here / name for name in files if not name.startswith("."))


def _add_image(images: dict[str, File], root: Path, path: Path) -> None:
    if (state := _state(path)) is None:
        return
    relative = path.relative_to(root).as_posix()
    name = compose(relative)
    if name in images:
        raise DataError(f"{root}: two images have the name {name}, with composed and decomposed accents; rename one")
    images[name] = File(relative, *state)


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
