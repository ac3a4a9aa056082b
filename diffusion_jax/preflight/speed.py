"""How fast the training steps are: some real ones, timed."""

import collections
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from diffusion_jax.training.loop import AHEAD
from diffusion_jax.training.step import CAUSES

__all__ = ["Speed", "time_steps"]


@dataclasses.dataclass(frozen=True)
class Speed:
    """Timed training steps.

    Attributes:
      first: seconds of the first step, which is not one of the others.
      intervals: seconds between the ends of the following steps.
      causes: why batches were skipped; () if none was.

    >>> Speed(1.0, (0.5, 0.25, 0.75)).seconds
    0.5
    """

    first: float
    intervals: tuple[float, ...]
    causes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Mean time per step."""
        return sum(self.intervals) / len(self.intervals)


def time_steps(
    step: Callable[..., tuple[Any, dict[str, jax.Array]]],
    state: Any,
    batches: Iterator[dict[str, jax.Array]],
    key: jax.Array,
    n: int,
    tell: Callable[[int], None] = lambda done: None,
) -> Speed:
    """Takes a step and then n more, with their batches from the data, as far ahead of the device as training.

    `tell` is called with the number of steps that are done.
    """
    ends, waiting = [time.perf_counter()], collections.deque[dict[str, jax.Array]]()
    causes = []

    def finish() -> None:
        causes.append(int(jax.block_until_ready(waiting.popleft())["cause"]))
        ends.append(time.perf_counter())
        tell(len(ends) - 1)

    for i in range(n + 1):
        state, metrics = step(state, next(batches), key)
        waiting.append(metrics)
        if not i or len(waiting) > AHEAD:
            finish()
    while waiting:
        finish()
    seconds = [after - before for before, after in itertools.pairwise(ends)]
    return Speed(seconds[0], tuple(seconds[1:]), tuple(CAUSES[cause] for cause in dict.fromkeys(causes) if cause))
