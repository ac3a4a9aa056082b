"""Silence for the background writes of a save that has failed already.

When one write of a checkpoint fails, Orbax raises its error, which is told in one line, and closes its event loop. The
other writes fail a moment later, in threads of TensorStore; each would print a traceback of "Event loop is closed".
"""

import asyncio
from typing import Any

__all__ = ["ignore_late_writes"]


def ignore_late_writes() -> None:
    """Lets event loops that are made from now on ignore what arrives after they are closed.

    A policy of the user's own is left alone.
    """
    if type(asyncio.get_event_loop_policy()) is asyncio.DefaultEventLoopPolicy:
        asyncio.set_event_loop_policy(_Policy())


class _Policy(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        loop = super().new_event_loop()
        call_soon = loop.call_soon_threadsafe

        def call_if_open(*args: Any, **kwargs: Any) -> Any:
            return None if loop.is_closed() else call_soon(*args, **kwargs)

        loop.call_soon_threadsafe = call_if_open  # type: ignore[assignment,method-assign]
        return loop
