"""The lock of a run in a bucket: an object that its owner renews, because a bucket releases nothing by itself.

Every write names the generation that it replaces, so of two processes one succeeds. A killed owner renews no more:
after `_EXPIRE_SECONDS`, or at once if it was a process of this machine, the next process takes the lock over.
"""

import contextlib
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from diffusion_jax.runtime.place import Place, store_errors

log = logging.getLogger(__name__)

_RENEW_SECONDS, _EXPIRE_SECONDS = 10, 60
_LOOK_SECONDS = 2


@contextlib.contextmanager
def hold_lease(workdir: Place) -> Iterator[Callable[[], None]]:
    """Holds the lock of a run in a bucket. Yields a function that raises OSError once the lock is lost.

    Raises OSError if another process holds it, which takes up to `_RENEW_SECONDS` to see.
    """
    lease = _Lease(workdir)
    with store_errors(workdir, "locked"):
        taken = lease.take()
    if not taken:
        raise OSError(f"workdir {workdir} is in use by another process; wait, or use another directory")
    thread = threading.Thread(target=lease.renew_until_released, daemon=True)
    thread.start()
    try:
        yield lease.check
    finally:
        lease.released.set()
        thread.join()
        lease.remove()


class _Lease:
    def __init__(self, workdir: Place):
        from google.cloud import storage

        bucket, _, name = os.fspath(workdir).removeprefix("gs://").partition("/")
        self.released = threading.Event()
        self._workdir, self._bucket, self._name = workdir, storage.Client().bucket(bucket), f"{name}/.lock".lstrip("/")
        self._mine = self._bucket.blob(self._name)
        self._mine.metadata = {"owner": secrets.token_hex(8), "machine": _machine(), "process": _process(os.getpid())}
        self._lost = False

    def take(self) -> bool:
        """Takes the lock if it is free or its owner is gone; returns whether this process has it."""
        found = self._bucket.get_blob(self._name)
        if found is None:
            return self._write(0)
        return (_has_ended(found) or not self._is_renewed(found)) and self._write(found.generation)

    def _is_renewed(self, found: Any) -> bool:
        """Waits until the lock changes, or is too old by the clock of the bucket."""
        log.info("%s is locked; waiting up to %d s for its owner to renew the lock", self._workdir, _EXPIRE_SECONDS)
        clock = self._bucket.blob(f"{self._name}.clock")
        while True:
            clock.upload_from_string(b"")
            if (clock.updated - found.updated).total_seconds() > _EXPIRE_SECONDS:
                return False
            time.sleep(_LOOK_SECONDS)
            now = self._bucket.get_blob(self._name)
            if now is None or now.generation != found.generation:
                return True

    def _write(self, generation: int, **options: Any) -> bool:
        """Replaces the lock of this generation, 0 for none; returns whether it still was of this generation."""
        from google.api_core.exceptions import PreconditionFailed

        try:
            self._mine.upload_from_string(b"", if_generation_match=generation, **options)
        except PreconditionFailed:
            return False
        return True

    def renew_until_released(self) -> None:
        while not self._lost and not self.released.wait(_RENEW_SECONDS):
            with contextlib.suppress(Exception):  # no network: the next time may succeed
                self._lost = not (self._write(self._mine.generation, timeout=_RENEW_SECONDS) or self._recognize())

    def _recognize(self) -> bool:
        """Whether the lock is this process's own after all: it was written, and the answer did not arrive."""
        found = self._bucket.get_blob(self._name)
        if found is None or (found.metadata or {}).get("owner") != self._mine.metadata["owner"]:
            return False
        self._mine = found
        return True

    def check(self) -> None:
        if self._lost:
            raise OSError(
                f"workdir {self._workdir}: another process has taken the run over, because this one did not renew its "
                f"lock for {_EXPIRE_SECONDS} s; leave the run to it, or stop it and run the same command again"
            )

    def remove(self) -> None:
        with contextlib.suppress(Exception):  # then it expires
            if not self._lost:
                self._mine.delete(if_generation_match=self._mine.generation)


def _has_ended(lock: Any) -> bool:
    """Whether the owner of the lock was a process of this machine, which is gone."""
    owner = lock.metadata or {}
    machine, process = owner.get("machine"), owner.get("process")
    if not machine or not process or machine != _machine():
        return False
    return _process(int(process.split("/")[0])) != process


def _machine() -> str:
    """Names the running system and its process numbers, which containers have of their own; "" if not on Linux."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    return ""


def _process(number: int) -> str:
    """Names a process of this machine by its number and start; "" if there is none, or it has ended."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else f"{number}/{fields[19]}"
    return ""
