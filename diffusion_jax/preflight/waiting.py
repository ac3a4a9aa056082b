"""Waiting for a long piece of work: the seconds that have passed, on stderr."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from diffusion_jax.runtime.stopping import Stop

__all__ = ["Waiting"]

Result = TypeVar("Result")

# Seconds until the first line in a file; each further line comes after twice the time.
_FIRST_LINE = 10.0


class Waiting:
    """Does work while it shows what is done and for how long; Ctrl-C is answered at once, even while compiling.

    On a terminal one line counts the seconds and disappears in the end. Elsewhere there is a line after 10, 20, 40, ...
    seconds.

    >>> Waiting(Stop())("adding", lambda: 1 + 1)
    2
    """

    def __init__(self, stop: Stop, enabled: bool = True):
        self._stop, self._enabled = stop, enabled
        self._terminal = sys.stderr.isatty()

    def __call__(self, what: str, work: Callable[[], Result]) -> Result:
        """Returns work(). Raises Stopped if a signal that `stop` listens to comes."""
        with self._show(lambda: what):
            return self._stop.wait_for(work)

    def count(self, what: str, n: int, work: Callable[[Callable[[int], None]], Result]) -> Result:
        """Returns work(tell), which calls tell(k) after k of n pieces."""
        done = 0

        def tell(k: int) -> None:
            nonlocal done
            done = k

        with self._show(lambda: f"{what} {done} of {n}"):
            return self._stop.wait_for(lambda: work(tell))

    @contextlib.contextmanager
    def _show(self, describe: Callable[[], str]) -> Iterator[None]:
        ended = threading.Event()
        thread = threading.Thread(target=self._tick, args=(describe, ended), daemon=True)
        if self._enabled:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            if self._enabled:
                thread.join()

    def _tick(self, describe: Callable[[], str], ended: threading.Event) -> None:
        start, due, width = time.monotonic(), 0.5 if self._terminal else _FIRST_LINE, 0
        while not ended.wait(start + due - time.monotonic()):
            text = f"{describe()}: {time.monotonic() - start:.0f} s"
            width = max(width, len(text))
            print(f"\r{text:{width}}" if self._terminal else text, end="" if self._terminal else "\n", file=sys.stderr)
            sys.stderr.flush()
            due = due + 1 if self._terminal else due * 2
        if width and self._terminal:
            print(f"\r{'':{width}}\r", end="", file=sys.stderr, flush=True)
