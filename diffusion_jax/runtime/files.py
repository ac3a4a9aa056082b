"""Files that are replaced atomically, directories that can be written, and their locks."""

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock
import jax

from diffusion_jax.runtime.errors import first_line
from diffusion_jax.runtime.lease import hold_lease
from diffusion_jax.runtime.place import Place, explain, is_remote, make_directory, store_errors, walk
from diffusion_jax.validation import printable

_FORBIDDEN = '/\\:*?"<>|'
_NAME_BYTES = 128
# A lack of memory, files or threads, in the words of XLA, C++, Python and the system.
_SHORTAGES = ("RESOURCE_EXHAUSTED", "bad_alloc", "Cannot allocate memory", "Too many open files", "start new thread")


@contextlib.contextmanager
def replace_file(path: Place) -> Iterator[Path]:
    """Yields the name of a local file to write to, which replaces `path` at the end of the block.

    After a kill, `path` is the old file or the new one. If the block fails, the new file is removed. An OSError that
    does not name its file, such as that of a full disk, then names `path`.
    """
    with _replace_object(path) if is_remote(path) else _rename_over(Path(path)) as new:
        yield new


@contextlib.contextmanager
def _replace_object(path: Place) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as scratch:
        new = Path(scratch) / path.name
        yield new
        with store_errors(path, "written"):
            path.write_bytes(new.read_bytes())


@contextlib.contextmanager
def _rename_over(path: Path) -> Iterator[Path]:
    new = path.with_name(f".{path.name}.new{path.suffix}")
    try:
        yield new
        new.replace(path)
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
    finally:
        new.unlink(missing_ok=True)


def replace_text(path: Place, text: str) -> None:
    """Replaces the file `path` by one with this text; see `replace_file`."""
    with replace_file(path) as new, new.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def as_file_name(text: str) -> str:
    """A part of a file's name that any system accepts, as close to `text` as possible.

    Slashes, control characters and what Windows forbids become "_". Names longer than 128 bytes of UTF-8 are cut, so
    that a number before them and an ending still fit where a name has at most 143 bytes (eCryptfs; elsewhere 255).

    >>> as_file_name("AC/DC"), as_file_name("..")
    ('AC_DC', '__')
    """
    forbidden = {character for character in text if character in _FORBIDDEN or printable(character) != character}
    safe = "".join("_" if character in forbidden else character for character in text)
    cut = safe.encode()[:_NAME_BYTES].decode(errors="ignore")  # drops a character of which only a part is left
    return re.sub(r"[. ]+$", lambda end: "_" * len(end[0]), cut)  # Windows drops dots and spaces at the end


def make_writable(directory: Place) -> None:
    """Creates a directory and writes a test file in it. Raises OSError if either fails."""
    make_directory(directory)
    probe = directory / f".writable.{os.getpid()}"  # two processes may test at the same time
    probe.write_text("")
    probe.unlink()


def make_workdir(workdir: Place) -> None:
    """Creates the directory of a run. Raises OSError, with one line, if it cannot be written."""
    try:
        make_writable(workdir)
    except Exception as error:
        if not isinstance(error, OSError) and not is_remote(workdir):
            raise
        reason = explain(error) if is_remote(workdir) else error
        raise OSError(f"workdir {workdir} cannot be written ({reason}); use another directory") from error


def find_obstacle(directory: Place, error: Exception) -> str | None:
    """What kept the files below `directory` from being read although they may be sound; None if nothing did."""
    text = first_line(error)
    if isinstance(error, MemoryError) or any(sign in text for sign in _SHORTAGES):
        return text
    if jax.process_count() > 1:
        return text  # the others may have read it, and wait
    return find_unreadable(directory)


def find_unreadable(directory: Place) -> str | None:
    """Reads every file below `directory`; returns the error of the first that cannot be read, with its path."""
    try:
        with store_errors(directory, "read"):
            for path in sorted(walk(directory)):
                _read(path)
    except OSError as error:
        return str(error)
    return None


def _read(path: Place) -> None:
    if path.is_dir():
        list(path.iterdir())
        return
    with path.open("rb") as file:
        while file.read(2**24):
            pass


@contextlib.contextmanager
def lock_workdir(workdir: Place) -> Iterator[Callable[[], None]]:
    """Holds the lock of a run's directory. The system releases it when the process ends, however it ends.

    In a bucket it expires instead; the function that is yielded raises OSError if that has happened. Raises OSError
    at once, with one line, if another process holds it, or if the file system has no locks.
    """
    with hold_lease(workdir) if is_remote(workdir) else _hold_lock(Path(workdir)) as check:
        yield check


@contextlib.contextmanager
def _hold_lock(workdir: Path) -> Iterator[Callable[[], None]]:
    # A soft lock, filelock's substitute on such file systems, would stay behind after a kill.
    lock = filelock.FileLock(workdir / ".lock", blocking=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise OSError(f"workdir {workdir} is in use by another process; wait, or use another directory") from None
    try:
        yield lambda: None
    finally:
        lock.release()
