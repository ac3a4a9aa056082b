"""When a training run has to stop early: signals and the caller's `should_stop`, agreed on by all processes."""

import atexit
import collections
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import jax

from diffusion_jax.runtime.processes import largest

__all__ = ["Stop", "Stopped"]

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

# The reason of a stop that `should_stop` asked for. Other reasons are the number of a signal.
_ASKED = signal.NSIG
# In several processes an answer is read this many questions late, so that nobody waits for the device.
_LAG = 2


class Stopped(Exception):
    """What was waited for has been left, because a signal asked to stop."""


class Stop:
    """Whether to stop, asked between two pieces of work; `reason` is 0 until then.

    Then it is the number of the signal, or another one.

    `should_stop` is called once per question. In several processes all must ask equally often; all get the same
    answer to the same question, so that none leaves a loop before the others.
    """

    def __init__(self, should_stop: Callable[[], bool] = lambda: False):
        self.reason = 0
        self._should_stop = should_stop
        self._alone = jax.process_count() == 1
        self._answers: collections.deque[jax.Array] = collections.deque()
        self._signal = 0
        self._raises = False
        self._caught: list[signal.Signals] = []

    def __call__(self) -> bool:
        self.reason = self.reason or self._ask()
        return bool(self.reason)

    def _ask(self) -> int:
        wanted = self._signal or _ASKED * bool(self._should_stop())
        if self._alone:
            return wanted
        self._answers.append(largest(wanted))
        return int(self._answers.popleft()) if len(self._answers) > _LAG else 0

    @contextlib.contextmanager
    def listen(self) -> Iterator[None]:
        """Notes SIGINT, SIGTERM and SIGHUP in the block instead of ending the process; a second one ends it at once.

        Only in the main thread, where Python can catch signals, and only if the caller has no handler of its own.
        """
        default: dict[signal.Signals, Any] = {
            signal.SIGINT: signal.default_int_handler,
            signal.SIGTERM: signal.SIG_DFL,
            signal.SIGHUP: signal.SIG_DFL,  # a closed terminal
        }
        caught = [number for number, handler in default.items() if signal.getsignal(number) is handler]
        if threading.current_thread() is not threading.main_thread():
            caught = []
        self._caught = caught
        for number in caught:
            signal.signal(number, self._note)
        try:
            yield
        finally:
            for number in caught:
                signal.signal(number, default[number])

    def _note(self, number: int, _: object) -> None:
        self._signal = number
        for each in self._caught:
            signal.signal(each, signal.SIG_DFL)
        if self._raises:
            self._leave()

    def _leave(self) -> None:
        self.reason = self._signal
        raise Stopped

    def until_signal(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items; raises Stopped between two of them after a signal. Among several processes just the items."""
        for item in items:
            if self._alone and self._signal:
                self._leave()
            yield item

    @contextlib.contextmanager
    def interrupt(self) -> Iterator[None]:
        """A signal raises Stopped inside the block, which must be Python code that waits, such as for data."""
        self._raises = self._alone
        try:
            if self._raises and self._signal:
                self._leave()
            yield
        finally:
            self._raises = False

    def raise_signal(self) -> None:
        """Raises what the signal that stopped the work stands for, if one did: KeyboardInterrupt or SystemExit."""
        if self.reason == signal.SIGINT:
            raise KeyboardInterrupt
        if self.reason in (signal.SIGTERM, signal.SIGHUP):
            raise SystemExit(128 + self.reason)

    def wait_for(self, work: Callable[[], Result], together: bool = True) -> Result:
        """Returns work(). A signal raises Stopped at once, and leaves the work behind in a thread.

        Compiling and sampling can take minutes, in which Python cannot react to a signal. What several processes do
        `together` is always awaited: leaving it would end the others, and what they have not saved would be lost.
        """
        if together and not self._alone:
            return work()
        outcome: dict[str, Any] = {}
        done = threading.Event()

        def run() -> None:
            try:
                outcome["result"] = work()
            except BaseException as error:
                outcome["error"] = error
            done.set()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        while not done.wait(0.05):
            if self._signal and not done.wait(1):  # a moment, for work that is nearly done
                atexit.register(_exit_before, thread, 128 + self._signal)
                if not self._alone:
                    log.warning("%s: this process stops, which ends the others", signal.Signals(self._signal).name)
                self._leave()
        if "error" in outcome:
            raise outcome["error"]
        return outcome["result"]


def _exit_before(thread: threading.Thread, code: int) -> None:
    """Ends the process without its other clean-up, which would wait for the thread or pull JAX away from under it."""
    if thread.is_alive():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
