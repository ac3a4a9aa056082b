"""Memory that threads share: whoever would go beyond the limit waits until others have finished."""

import contextlib
import logging
import threading
from collections.abc import Iterator

__all__ = ["Budget"]

log = logging.getLogger(__name__)


class Budget:
    """At most `limit` bytes, held by any number of threads.

    >>> budget = Budget(1_000_000)
    >>> with budget.hold(800_000):
    ...     budget.used
    800000
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.used = 0
        self._told = False
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Holds `size` bytes inside the block, and waits for them before it; more than the limit is held alone."""
        with self._changed:
            if self._is_full(size):
                self._tell()
                self._changed.wait_for(lambda: not self._is_full(size))
            self.used += size
        try:
            yield
        finally:
            with self._changed:
                self.used -= size
                self._changed.notify_all()

    def _is_full(self, size: int) -> bool:
        return self.used > 0 and self.used + size > self.limit

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            log.info("large images: fewer are decoded at a time, within a budget of %d bytes of memory", self.limit)
