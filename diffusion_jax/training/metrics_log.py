"""What the loop tells about the training: metrics, speed and skipped batches."""

import collections
import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from diffusion_jax.runtime.errors import RunError
from diffusion_jax.runtime.progress import progress_bar
from diffusion_jax.runtime.writers import MetricsWriter
from diffusion_jax.training.plan import Plan
from diffusion_jax.training.step import CAUSES, Metrics

__all__ = ["MetricsLog", "TrainingError"]

log = logging.getLogger(__name__)

_REMEDY = "lower the learning rate, clip the gradient or look at the data"

# If metrics are logged rarely or never, skipped batches are looked for this often.
_LOOK_EVERY = 100


class TrainingError(RunError):
    """The training cannot go on: nothing is learned any more."""


class MetricsLog:
    """Writes metrics one log point late, so that reading them never blocks the device."""

    def __init__(self, writer: MetricsWriter, plan: Plan, start: int):
        self._writer, self._plan = writer, plan
        self._pending: tuple[_Call, float] | None = None  # with the images per second
        self._skips = _Skips(min(plan.max_skipped, -(-plan.steps // 2)))  # a short run must learn something, too
        self._last_step, self._last_time = start, time.perf_counter()
        self._compiling = True
        self._bar = progress_bar(
            total=plan.steps * plan.batch_size,
            initial=start * plan.batch_size,
            unit="img",
            unit_scale=True,
            desc=f"step {start}/{plan.steps}, compiling",
            dynamic_ncols=True,
            disable=jax.process_index() > 0,
        )

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, error_type: type | None, *exc: object) -> None:
        try:
            if error_type is None:
                self.flush()
        finally:
            self._bar.close()

    def add(self, step: int, metrics: Metrics, n: int = 1) -> None:
        """Takes the metrics of a call of n steps, the last of which is `step`: scalars, or arrays of at least [n].

        At a log point, writes the metrics of the previous one and starts copying these.
        """
        if self._compiling:
            self._bar.set_description(f"step {step}/{self._plan.steps}")
            self._compiling = False
        self._skips.add(step, metrics, n)
        if self._plan.is_due(step, self._plan.log_every):
            self.flush()
            jax.tree.map(lambda x: x.copy_to_host_async(), metrics)
            self._pending = _Call(step, n, metrics), self._measure_speed(step)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The time inside the block does not count in the speed, which is that of the training steps."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._last_time += time.perf_counter() - start

    def flush(self) -> None:
        """Writes the pending metrics, if any. Raises TrainingError if too many batches in a row were skipped."""
        if self._pending is None:
            return
        (call, speed), self._pending = self._pending, None
        step, scalars = call.step, {name: call.read(name)[-1] for name in call.metrics if name != "cause"}
        self._writer.write(step, scalars, final=not self._plan.is_on_schedule(step, self._plan.log_every))
        self._writer.write_speed(step, speed)
        self._update_progress(step, scalars)
        self._skips.report(step)

    def _measure_speed(self, step: int) -> float:
        """Images per second since the last log point, measured when the step is taken: flushes come late, or early."""
        images, now = (step - self._last_step) * self._plan.batch_size, time.perf_counter()
        speed = images / (now - self._last_time)
        self._last_step, self._last_time = step, now
        return speed

    def _update_progress(self, step: int, scalars: dict[str, Any]) -> None:
        self._bar.set_description(f"step {step}/{self._plan.steps}", refresh=False)
        self._bar.set_postfix(loss=f"{scalars['loss']:.4f}", refresh=False)
        self._bar.update(step * self._plan.batch_size - self._bar.n)


class _Call(NamedTuple):
    """What the device tells of a call of n steps, the last of which is `step`."""

    step: int
    n: int
    metrics: Metrics

    def read(self, name: str) -> list[Any]:
        """A metric of each step; waits for the device."""
        return np.atleast_1d(jax.device_get(self.metrics[name]))[: self.n].tolist()


class _Skips:
    """Which batches were skipped and why. Reads the causes of single steps only if there were any."""

    def __init__(self, limit: int):
        self._limit = limit
        self._unread: collections.deque[_Call] = collections.deque()
        self._total = self._in_row = 0

    def add(self, step: int, metrics: Metrics, n: int) -> None:
        self._unread.append(_Call(step, n, metrics))
        if step - self._unread[0].step >= 2 * _LOOK_EVERY:  # the older half has long been computed
            self.report(step - _LOOK_EVERY - 1)

    def report(self, until: int) -> None:
        """Warns of the batches up to step `until` that were skipped; raises TrainingError if they reach the limit."""
        calls: list[_Call] = []
        while self._unread and self._unread[0].step <= until:
            calls.append(self._unread.popleft())
        if not calls:
            return
        before, self._total = self._total, int(calls[-1].read("skipped")[-1])
        if self._total == before:
            self._in_row = 0
            return
        # batch -> cause
        causes = {call.step - call.n + i: int(cause) for call in calls for i, cause in enumerate(call.read("cause"))}
        if any(causes.values()):
            log.warning("step %d: skipped %s; %d so far", until, _list_skipped(causes), self._total)
        for batch, cause in causes.items():
            self._in_row = self._in_row + 1 if cause else 0
            if self._in_row == self._limit:
                why = f"the last because {CAUSES[cause]}; {_REMEDY}"
                raise TrainingError(f"step {batch + 1}: {self._limit} batches in a row were skipped, {why}")


def _list_skipped(causes: dict[int, int]) -> str:
    """Such as "2 because the loss is not finite (batches 17, 18)"."""
    parts = []
    for cause in sorted({*causes.values()} - {0}):
        batches = [batch for batch, why in causes.items() if why == cause]
        listed = ", ".join(map(str, batches[:10])) + ", ..." * (len(batches) > 10)
        parts.append(f"{len(batches)} because {CAUSES[cause]} (batches {listed})")
    return "; ".join(parts)
