"""Files that are whole or not there."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Writes a file beside `path` and renames it: a kill leaves the old text or the new one."""
    beside = path.with_name(path.name + ".new")
    with beside.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def make_writable(folder: Path) -> None:
    """Creates a folder and tries to write in it. Raises OSError where that can't be done."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".writable.{os.getpid()}"  # two processes may look at once
    probe.write_text("")
    probe.unlink()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder, which ends with the process. Raises OSError where another has it."""
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(f"workdir {folder} is in use by another process; wait, or name another") from None
        yield
