"""How fast the training steps are: some real ones, timed."""

import collections
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from diffusion_jax.training.loop import AHEAD
from diffusion_jax.training.step import CAUSES

__all__ = ["Speed", "time_steps"]


@dataclasses.dataclass(frozen=True)
class Speed:
    """Timed training steps.

    Attributes:
      first: seconds of the first call, which is not one of the others.
      intervals: seconds of each following step; the steps of one call share its time.
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
    take: Callable[[Any, Any, int], tuple[Any, dict[str, jax.Array]]],
    state: Any,
    calls: Iterable[tuple[Any, int]],
    tell: Callable[[int], None] = lambda done: None,
) -> Speed:
    """Calls take(state, batch, size) for each (batch, size) of `calls`, as far ahead of the device as training.

    A call takes `size` steps, and the first one warms up. `tell` is called with the number of steps that are done.
    """
    ends, waiting = [time.perf_counter()], collections.deque[tuple[dict[str, jax.Array], int]]()
    sizes, causes = list[int](), list[int]()

    def finish() -> None:
        metrics, size = waiting.popleft()
        causes.extend(np.atleast_1d(jax.block_until_ready(metrics)["cause"])[:size].tolist())
        sizes.append(size)
        ends.append(time.perf_counter())
        tell(sum(sizes))

    for batch, size in calls:
        state, metrics = take(state, batch, size)
        waiting.append((metrics, size))
        if not sizes or len(waiting) > AHEAD:
            finish()
    while waiting:
        finish()
    first, *seconds = [after - before for before, after in itertools.pairwise(ends)]
    intervals = [each / size for each, size in zip(seconds, sizes[1:], strict=True) for _ in range(size)]
    return Speed(first, tuple(intervals), tuple(CAUSES[cause] for cause in dict.fromkeys(causes) if cause))
