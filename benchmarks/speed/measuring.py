"""Timing several implementations in one run: preparation, warm-up, and rounds in which all take turns."""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Sequence

from diffusion_jax.runtime.errors import first_line

Clock = Callable[[], float]
_LATE = 0.6  # no further contestant is prepared after this share of the budget; the rest is for the rounds


@dataclasses.dataclass(frozen=True)
class Prepared:
    """An implementation that is ready to run.

    Attributes:
      run: run(n) makes n calls and returns when the device has finished them.
      parameters: of its network.
      flops: floating-point operations of one call; None for those of the first contestant.
    """

    run: Callable[[int], None]
    parameters: int
    flops: float | None = None


@dataclasses.dataclass(frozen=True)
class Contestant:
    """An implementation to measure.

    Attributes:
      name: its row in the table.
      prepare: builds it; nothing is built before its turn.
      is_rival: whether a failure is a row of the table rather than an error of the command.
      note: what differs from the other rows.
    """

    name: str
    prepare: Callable[[], Prepared]
    is_rival: bool = True
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Result:
    """What was measured of a contestant.

    Attributes:
      name, note: of the contestant.
      parameters, flops: as in `Prepared`; None without a measurement.
      preparation: seconds until the first call has ended, with compilation.
      calls: calls per round.
      seconds: per call, one number per round; () if it was not measured.
      problem: why it was not measured.
    """

    name: str
    note: str = ""
    parameters: int | None = None
    flops: float | None = None
    preparation: float | None = None
    calls: int = 0
    seconds: tuple[float, ...] = ()
    problem: str = ""

    @property
    def median(self) -> float:
        """The median of the rounds, in seconds per call."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """The fastest and the slowest round, in seconds per call."""
        return min(self.seconds), max(self.seconds)


class Budget:
    """The time that a measurement may take, in seconds; 0 for any time."""

    def __init__(self, seconds: float, clock: Clock = time.perf_counter):
        self.seconds, self._clock, self._start = seconds, clock, clock()

    @property
    def elapsed(self) -> float:
        return self._clock() - self._start

    @property
    def left(self) -> float:
        """Seconds that are left; infinite without a budget."""
        return self.seconds - self.elapsed if self.seconds else math.inf

    def is_late(self) -> bool:
        """Whether there is no time for the preparation of another contestant."""
        return bool(self.seconds) and self.elapsed > _LATE * self.seconds


def compare(
    contestants: Sequence[Contestant],
    rounds: int,
    seconds: float,
    budget: Budget,
    tell: Callable[[str], None] = lambda text: None,
    clock: Clock = time.perf_counter,
) -> list[Result]:
    """Prepares all contestants, then lets them take turns in `rounds` rounds; every second round runs backwards.

    In a round each makes as many calls, one after another, as take about `seconds`, at least one. A round that would
    not end within the budget is not begun, except the first.
    """
    results = {each.name: Result(each.name, each.note) for each in contestants}
    running: dict[str, Prepared] = {}
    for each in contestants:
        tell(each.name)
        prepared, results[each.name] = _prepare(each, results[each.name], seconds, budget, clock)
        if prepared is not None:
            running[each.name] = prepared
    for i in range(rounds):
        start = clock()
        tell(f"round {i + 1} of {rounds}")
        for name in list(running)[:: -1 if i % 2 else 1]:
            result = results[name]
            per_call = _time(running[name], result.calls, clock) / result.calls
            results[name] = dataclasses.replace(result, seconds=(*result.seconds, per_call))
        if clock() - start > budget.left:
            break
    return list(results.values())


def _prepare(
    contestant: Contestant, result: Result, seconds: float, budget: Budget, clock: Clock
) -> tuple[Prepared | None, Result]:
    """(the implementation, None if it cannot run; its result, without the rounds)."""
    if contestant.is_rival and budget.is_late():
        problem = f"left out: {budget.elapsed:.0f} of {budget.seconds:.0f} s were over"
        return None, dataclasses.replace(result, problem=problem)
    start = clock()
    try:
        prepared = contestant.prepare()
        prepared.run(1)
        preparation = clock() - start
        warm = _time(prepared, 1, clock)
    except Exception as error:  # a rival needs compilers, memory and packages that may not be here
        if not contestant.is_rival:
            raise
        return None, dataclasses.replace(result, problem=first_line(error)[:200] or type(error).__name__)
    calls = max(1, math.ceil(seconds / max(warm, 1e-6)))
    found = dict(parameters=prepared.parameters, flops=prepared.flops, preparation=preparation, calls=calls)
    return prepared, dataclasses.replace(result, **found)


def _time(prepared: Prepared, calls: int, clock: Clock) -> float:
    start = clock()
    prepared.run(calls)
    return clock() - start


def find_ratio(result: Result, reference: Result) -> float:
    """The median over the rounds of the time of `result`, divided by that of `reference` in the same round."""
    pairs = zip(result.seconds, reference.seconds, strict=True)
    return statistics.median(mine / other for mine, other in pairs)
