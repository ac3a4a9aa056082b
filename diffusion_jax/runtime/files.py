"""Files that are replaced atomically, directories that can be written, and their locks."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import filelock


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yields a name next to `path` to write to, and renames that file to `path` at the end of the block.

    After a kill, `path` is the old file or the new one. If the block fails, the new file is removed. An OSError that
    does not name its file, such as that of a full disk, then names `path`.
    """
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


def replace_text(path: Path, text: str) -> None:
    """Replaces the file `path` by one with this text; see `replace_file`."""
    with replace_file(path) as new, new.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def make_writable(directory: Path) -> None:
    """Creates a directory and writes a test file in it. Raises OSError if either fails."""
    directory.mkdir(parents=True, exist_ok=True)
    probe = directory / f".writable.{os.getpid()}"  # two processes may test at the same time
    probe.write_text("")
    probe.unlink()


def make_workdir(workdir: Path) -> None:
    """Creates the directory of a run. Raises OSError, with one line, if it cannot be written."""
    try:
        make_writable(workdir)
    except OSError as error:
        raise OSError(f"workdir {workdir} cannot be written ({error}); use another directory") from error


def find_unreadable(directory: Path) -> str | None:
    """Reads every file below `directory`; returns the error of the first that cannot be read, with its path."""
    for path in sorted(directory.rglob("*")):
        try:
            if path.is_dir():
                os.listdir(path)
                continue
            with path.open("rb") as file:
                while file.read(2**24):
                    pass
        except OSError as error:
            return str(error)
    return None


@contextlib.contextmanager
def lock_workdir(workdir: Path) -> Iterator[None]:
    """Holds the lock of a run's directory. The system releases it when the process ends, however it ends.

    Raises OSError at once, with one line, if another process holds it, or if the file system has no locks.
    """
    # A soft lock, filelock's substitute on such file systems, would stay behind after a kill.
    lock = filelock.FileLock(workdir / ".lock", blocking=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise OSError(f"workdir {workdir} is in use by another process; wait, or use another directory") from None
    try:
        yield
    finally:
        lock.release()
