"""Where a run lives: a directory of this machine, or `gs://bucket/run` in Google Cloud Storage.

`etils.epath` gives objects in a bucket the interface of pathlib. This module holds the differences:

- a directory is only the common start of some names: it is never created, and renaming it is a copy of every object;
- writing an object replaces it as a whole, at once;
- nothing can be appended, so files that grow are written on this machine and copied (`Mirror`);
- there are no locks, so the owner of a run renews an object (`lease.py`).
"""

import contextlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from etils import epath

from diffusion_jax.runtime.errors import first_line
from diffusion_jax.validation import find_address, local_path

log = logging.getLogger(__name__)

Place: TypeAlias = Path | epath.Path

# Orbax marks a complete checkpoint in a bucket with this object, which it writes last.
_COMPLETE = "commit_success.txt"
# Orbax renames old checkpoints into this directory; see checkpoint.py.
_TRASH = ".trash"
# Seconds for one request to a bucket.
_TIMEOUT = 120


def run_path(name: str, value: Any) -> Place:
    """Returns the directory of a run: a path of this machine, or gs://bucket/run.

    Raises ValueError for another address, or if gcsfs is not installed, and OSError if the bucket cannot be reached.

    >>> run_path("workdir", "runs/digits").name
    'digits'
    >>> run_path("workdir", "s3://bucket/run")
    Traceback (most recent call last):
    ValueError: workdir = s3://bucket/run: must be a path of this machine or gs://bucket/run; mount other buckets
    """
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else ""
    if not (address := find_address(text)):
        path = local_path(name, value)
        if os.sep == "/" and "\\" in str(path.absolute()):
            raise ValueError(f"{name} = {path.absolute()}: has a \\, which checkpoints take for a /; rename it")
        return path
    if address[0] != "gs" or not (rest := address[1].rstrip("/")):
        raise ValueError(f"{name} = {text}: must be a path of this machine or gs://bucket/run; mount other buckets")
    return _open_bucket(name, f"gs://{rest}")  # pathlib makes one slash of two


def _open_bucket(name: str, text: str) -> epath.Path:
    try:
        import fsspec
        import gcsfs  # noqa: F401
    except ImportError as error:
        needs = 'needs gcsfs, which is not installed: pip install "diffusion_jax[gcs]"'
        raise ValueError(f"{name} = {text}: {needs}") from error
    # What another process, or TensorStore in this one, has just written must be seen, and a lost answer must not hang.
    options = fsspec.config.conf.setdefault("gcs", {})
    options.setdefault("use_listings_cache", False)
    options.setdefault("requests_timeout", _TIMEOUT)
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs the traceback of every error that it raises
    path = epath.Path(text)
    with store_errors(path, "reached"):
        path.exists()
    return path


def is_remote(path: Place) -> bool:
    """Whether a path names an object in a bucket.

    >>> is_remote(Path("runs/digits"))
    False
    """
    return os.fspath(path).startswith("gs://")


@contextlib.contextmanager
def store_errors(path: Place, verb: str) -> Iterator[None]:
    """Raises errors of an object store inside the block as OSError with one line; those of local files stay."""
    try:
        yield
    except Exception as error:
        if not is_remote(path):
            raise
        raise OSError(f"{os.fspath(path)} cannot be {verb} ({explain(error)})") from error


def explain(error: Exception) -> str:
    """Why an object could not be written or listed, in one line."""
    return "there is no such bucket" if isinstance(error, FileNotFoundError) else first_line(error)


def absolute(path: Place) -> Place:
    """The path from the root; one in a bucket is so already."""
    return path if is_remote(path) else Path(path).absolute()


def make_directory(path: Place) -> None:
    """Creates a local directory and its parents; in a bucket there is nothing to create."""
    if not is_remote(path):
        path.mkdir(parents=True, exist_ok=True)


def walk(directory: Place) -> Iterator[Place]:
    """Yields everything below a directory. Raises OSError if a part of it cannot be read."""
    for path in directory.iterdir():  # rglob would leave out what cannot be read
        yield path
        if path.is_dir() and not os.path.islink(path):
            yield from walk(path)


def remove_tree(directory: Place) -> None:
    """Removes a directory if it exists. A checkpoint in a bucket stops being one first."""
    if is_remote(directory):
        (directory / _COMPLETE).unlink(missing_ok=True)
        epath.Path(directory).rmtree(missing_ok=True)
    else:
        shutil.rmtree(directory, ignore_errors=True)


def move_tree(source: Place, target: Place) -> None:
    """Moves a directory. In a bucket it is complete at the new place before it is removed at the old one."""
    if not is_remote(source):
        shutil.move(source, target)
        return
    for path in walk(source):
        if not path.is_dir():
            epath.Path(path).copy(target / path.relative_to(source), overwrite=True)
    remove_tree(source)


def complete_steps(directory: Place) -> list[int]:
    """The steps of the checkpoints in a directory, oldest first, without those that were not written to the end."""
    if not directory.exists():
        return []
    return sorted(step for step, path in _named_steps(directory).items() if _is_complete(path))


def _named_steps(directory: Place) -> dict[int, Place]:
    """What has the name of a checkpoint, by its step."""
    return {int(path.name): path for path in directory.iterdir() if re.fullmatch("0|[1-9][0-9]*", path.name)}


def _is_complete(checkpoint: Place) -> bool:
    """Whether it was written to the end: in a bucket a mark says so, on a disk it has its name only then."""
    if is_remote(checkpoint):
        return (checkpoint / _COMPLETE).exists()
    return checkpoint.is_dir() and any(checkpoint.iterdir())


def remove_remains(directory: Place) -> None:
    """Removes what is left of checkpoints after a killed removal, and in a bucket after a killed save.

    Local remains of a save have names of their own, which Orbax removes.
    """
    if not is_remote(directory):
        remove_tree(directory / _TRASH)
    elif directory.exists():
        for path in _named_steps(directory).values():
            if not _is_complete(path):
                remove_tree(path)


def remove_old_steps(directory: Place, keep: int) -> None:
    """Removes what Orbax has renamed into .trash; in a bucket, which has no renames, all but the newest checkpoints."""
    if not is_remote(directory):
        remove_tree(directory / _TRASH)
        return
    with contextlib.suppress(Exception):  # the next save tries again
        for step in complete_steps(directory)[:-keep]:
            remove_tree(directory / str(step))


class Mirror:
    """A local directory whose files are copied to a bucket, whole, each time that they have changed.

    Of the files that the bucket has, `names` are fetched first. Failing to copy is one warning; the next call tries
    again.
    """

    def __init__(self, remote: Place, *names: str):
        self._remote, self._copied, self._failed = remote, dict[Path, int](), False
        self._scratch = tempfile.TemporaryDirectory(prefix="diffusion_jax_")
        self.local = Path(self._scratch.name)
        for name in names:
            if (remote / name).exists():
                (self.local / name).write_bytes((remote / name).read_bytes())
                self._copied[self.local / name] = (self.local / name).stat().st_mtime_ns

    def copy(self) -> None:
        """Copies the files that have changed since the last call."""
        try:
            for path in sorted(self.local.rglob("*")):
                changed = path.stat().st_mtime_ns
                if path.is_file() and self._copied.get(path) != changed:
                    (self._remote / path.relative_to(self.local)).write_bytes(path.read_bytes())
                    self._copied[path] = changed
        except Exception as error:
            if not self._failed:
                log.warning("%s cannot be written (%s); training continues", self._remote, first_line(error))
            self._failed = True
        else:
            self._failed = False

    def close(self) -> None:
        """Copies once more and removes the local directory."""
        self.copy()
        self._scratch.cleanup()
