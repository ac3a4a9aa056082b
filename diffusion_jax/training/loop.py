"""The training loop: steps, logging, evaluation, samples and checkpoints."""

import collections
import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import jax

from diffusion_jax.runtime.errors import first_line
from diffusion_jax.runtime.stopping import Stop, Stopped
from diffusion_jax.runtime.writers import MetricsWriter
from diffusion_jax.training.metrics_log import MetricsLog
from diffusion_jax.training.plan import Due, Plan
from diffusion_jax.training.several import make_train_steps
from diffusion_jax.training.state import TrainState
from diffusion_jax.training.step import Batch, TrainStep

__all__ = ["AHEAD", "Actions", "fit"]

log = logging.getLogger(__name__)

# Calls of the training step that the host is ahead, enough for the device never to wait for it.
AHEAD = 2


@dataclasses.dataclass(frozen=True)
class Actions:
    """What the loop calls besides the training step.

    Attributes:
      evaluate: returns metrics of the state.
      save_samples: generates and writes samples of (state, step).
      save: writes a checkpoint of (state, step).
      watch: called at each log point; reports what failed in the background.
      missing: what was due at the step to start from, and was not done because the run was interrupted.
    """

    evaluate: Callable[[TrainState], dict[str, float]]
    save_samples: Callable[[TrainState, int], None]
    save: Callable[[TrainState, int], None]
    watch: Callable[[], None] = lambda: None
    missing: Due = Due()


def fit(
    state: TrainState,
    train_step: TrainStep,
    batches: Iterator[dict[str, jax.Array]],
    key: jax.Array,
    plan: Plan,
    writer: MetricsWriter,
    actions: Actions,
    start: int = 0,
    stop: Stop | None = None,
) -> tuple[TrainState, int]:
    """Trains from step `start`, the step of `state`, to plan.steps, or until stop().

    `batches` yields batch start, start + 1, .. on the device; with plan.steps_per_call = K > 1 the batches of each
    call, stacked [K, B, ...]. The host is at most two calls ahead of it, so that a signal need not wait for more, and
    waits for it before checkpoints, evaluations and samples. Returns the state and its step.

    Only the training itself and the checkpoints can end the run: an evaluation or samples that fail are a warning.
    Raises TrainingError after plan.max_skipped skipped batches in a row.
    """
    stop = Stop() if stop is None else stop
    step = saved = start
    take_steps = _as_call(train_step, plan)
    in_flight: collections.deque[Any] = collections.deque()
    with MetricsLog(writer, plan, start) as metrics_log, contextlib.suppress(Stopped):
        with metrics_log.paused():
            _observe(state, start, actions.missing, plan, writer, actions, stop)
        while step < plan.steps and not stop():
            with stop.interrupt():
                batch = next(batches)
            n = plan.steps_in_call(step)
            # A signal does not wait for the compilation: there is nothing new to save.
            call = functools.partial(take_steps, state, batch, key, n)
            state, metrics = stop.wait_for(call, together=False) if step == start else call()
            step += n
            in_flight.append(metrics)
            if len(in_flight) > AHEAD:
                jax.block_until_ready(in_flight.popleft())
            metrics_log.add(step, metrics, n)
            if plan.is_due(step, plan.log_every):
                actions.watch()
            due = plan.due(step)
            if any(due):
                metrics_log.flush()  # so that the record beside a checkpoint of step k reaches step k
                # XLA's emulated devices share their threads: a run on two of them stopped twice in the all-reduce
                # of a step while the programs of a checkpoint were queued beside it.
                jax.block_until_ready(state)
            with metrics_log.paused():
                if due.save:
                    actions.save(state, step)
                    saved = step
                _observe(state, step, due, plan, writer, actions, stop)
    if saved < step:
        actions.save(state, step)  # stopped between two checkpoints
    return state, step


def _as_call(train_step: TrainStep, plan: Plan) -> Callable[[TrainState, Batch, jax.Array, int], Any]:
    """The call (state, batch, key, n) -> (state, metrics) of the next n steps."""
    if plan.steps_per_call > 1:
        return make_train_steps(train_step)
    return lambda state, batch, key, n: train_step(state, batch, key)


def _observe(
    state: TrainState, step: int, due: Due, plan: Plan, writer: MetricsWriter, actions: Actions, stop: Stop
) -> None:
    """Evaluation and samples, each if it is due after `step` steps."""
    if due.evaluate:
        with _side_product(step, "the evaluation"):
            metrics = stop.wait_for(lambda: actions.evaluate(state))
            writer.write(step, metrics, final=not plan.is_on_schedule(step, plan.eval_every))
    if due.sample:
        with _side_product(step, "drawing samples"):
            stop.wait_for(lambda: actions.save_samples(state, step))


@contextlib.contextmanager
def _side_product(step: int, name: str) -> Iterator[None]:
    """Turns an error inside the block into one warning. Among several processes it ends all, as they must agree."""
    try:
        yield
    except Stopped:
        raise
    except Exception as error:
        if jax.process_count() > 1:
            raise
        text = first_line(error)
        log.warning("step %d: %s failed (%s: %s); training continues", step, name, type(error).__name__, text)
        log.debug("its traceback", exc_info=True)
