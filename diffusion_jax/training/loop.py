"""The training loop: steps, logging, evaluation, samples and checkpoints."""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import field
from typing import Any

import jax
import tqdm

from diffusion_jax.runtime.writers import MetricsWriter
from diffusion_jax.training.state import TrainState
from diffusion_jax.training.step import Metrics, TrainStep
from diffusion_jax.validation import Checked, integer, number

__all__ = ["Actions", "Plan", "fit"]

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Plan(Checked):
    """The `train` section of a config.

    Attributes:
      steps: length of the run, in batches.
      batch_size: global batch size, over all devices.
      log_every, eval_every, sample_every, checkpoint_every: interval in steps; 0 for only at the end.
      eval_examples: number of held-out examples per evaluation; 0 for all.
      keep_checkpoints: number of newest checkpoints to keep.
      ema_decay: decay of the averaged parameters, which the samples are generated with.
      accumulate: number of micro-batches per batch, for batches that do not fit on the device at once.
      seed: seed of everything: parameters, order of the data, noise, dropout, samples.

    >>> Plan(steps=1000, batch_size=64).checkpoint_every
    1000
    """

    steps: int = field(metadata=integer(1))
    batch_size: int = field(metadata=integer(1))
    log_every: int = field(default=100, metadata=integer(0))
    eval_every: int = field(default=1000, metadata=integer(0))
    sample_every: int = field(default=1000, metadata=integer(0))
    checkpoint_every: int = field(default=1000, metadata=integer(0))
    eval_examples: int = field(default=2048, metadata=integer(0))
    keep_checkpoints: int = field(default=3, metadata=integer(1))
    ema_decay: float = field(default=0.999, metadata=number("[0, 1)"))
    accumulate: int = field(default=1, metadata=integer(1))
    seed: int = field(default=0, metadata=integer(0, 2**32 - 1))

    def __post_init__(self):
        super().__post_init__()
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate = {self.accumulate}: must divide batch_size = {self.batch_size}")

    def is_due(self, step: int, every: int) -> bool:
        """Whether an action with this interval is due after `step` steps; at the end every action is."""
        return step == self.steps or self.is_on_schedule(step, every)

    def is_on_schedule(self, step: int, every: int) -> bool:
        """Whether the action would be due after `step` steps in a longer run too."""
        return every > 0 and step % every == 0


@dataclasses.dataclass(frozen=True)
class Actions:
    """What the loop calls besides the training step.

    Attributes:
      evaluate: returns metrics of the state.
      save_samples: generates and writes samples of (state, step).
      save: writes a checkpoint of (state, step).
      watch: called at each log point; reports what failed in the background.
      should_stop: called before each step; True ends the run early, with a checkpoint.
    """

    evaluate: Callable[[TrainState], dict[str, float]]
    save_samples: Callable[[TrainState, int], None]
    save: Callable[[TrainState, int], None]
    watch: Callable[[], None] = lambda: None
    should_stop: Callable[[], bool] = lambda: False


def fit(
    state: TrainState,
    train_step: TrainStep,
    batches: Iterator[dict[str, jax.Array]],
    key: jax.Array,
    plan: Plan,
    writer: MetricsWriter,
    actions: Actions,
    start: int = 0,
) -> tuple[TrainState, int]:
    """Trains from step `start`, the step of `state`, to plan.steps, or until actions.should_stop().

    `batches` yields batch start, start + 1, .. on the device. The host waits for the device only at log points, and
    only for the metrics of the previous log point. Returns the state and its step.
    """
    step = start
    with _MetricsLog(writer, plan, start) as metrics_log:
        while step < plan.steps and not actions.should_stop():
            state, metrics = train_step(state, next(batches), key)
            step += 1
            if plan.is_due(step, plan.log_every):
                metrics_log.add(step, metrics)
                actions.watch()
            _run_actions(state, step, plan, writer, actions, metrics_log)
        metrics_log.flush()
    if start < step < plan.steps and not plan.is_due(step, plan.checkpoint_every):
        actions.save(state, step)  # stopped between two checkpoints
    return state, step


def _run_actions(
    state: TrainState, step: int, plan: Plan, writer: MetricsWriter, actions: Actions, metrics_log: "_MetricsLog"
) -> None:
    """Evaluation, samples and checkpoint, each if it is due after `step` steps."""
    evaluate, sample, save = (
        plan.is_due(step, every) for every in (plan.eval_every, plan.sample_every, plan.checkpoint_every)
    )
    if evaluate or sample or save:
        # XLA's emulated devices share their threads: a run on two of them stopped twice in the all-reduce of
        # a step while the programs of a checkpoint were queued beside it.
        jax.block_until_ready(state)
    if evaluate:
        metrics_log.flush()
        writer.write(step, actions.evaluate(state), final=not plan.is_on_schedule(step, plan.eval_every))
    if sample:
        actions.save_samples(state, step)
    if save:
        metrics_log.flush()  # so that the record beside a checkpoint of step k reaches step k
        actions.save(state, step)


class _MetricsLog:
    """Writes metrics one log point late, so that reading them never blocks the device."""

    def __init__(self, writer: MetricsWriter, plan: Plan, start: int):
        self._writer, self._plan = writer, plan
        self._pending: tuple[int, Metrics] | None = None
        self._skipped = 0
        self._last_step, self._last_time = start, time.perf_counter()
        self._bar = tqdm.tqdm(
            total=plan.steps * plan.batch_size,
            initial=start * plan.batch_size,
            unit="img",
            unit_scale=True,
            desc=f"step {start}/{plan.steps}, compiling",
            dynamic_ncols=True,
        )

    def __enter__(self) -> "_MetricsLog":
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.close()

    def add(self, step: int, metrics: Metrics) -> None:
        """Writes the metrics of the previous log point, and starts copying these to the host."""
        self.flush()
        jax.tree.map(lambda x: x.copy_to_host_async(), metrics)
        self._pending = step, metrics

    def flush(self) -> None:
        """Writes the pending metrics, if any."""
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        scalars: dict[str, Any] = {name: x.item() for name, x in jax.device_get(metrics).items()}
        self._writer.write(step, scalars, final=not self._plan.is_on_schedule(step, self._plan.log_every))
        self._update_progress(step, scalars)

    def _update_progress(self, step: int, scalars: dict[str, Any]) -> None:
        images, now = (step - self._last_step) * self._plan.batch_size, time.perf_counter()
        self._writer.write_speed(step, images / (now - self._last_time))
        self._last_step, self._last_time = step, now
        self._bar.set_description(f"step {step}/{self._plan.steps}", refresh=False)
        self._bar.set_postfix(loss=f"{scalars['loss']:.4f}", refresh=False)
        self._bar.update(images)
        if scalars["skipped"] > self._skipped:
            log.warning(
                "step %d: %d batches so far were skipped because their loss or gradient was not finite; "
                "if this continues, lower the learning rate or clip the gradient",
                step,
                scalars["skipped"],
            )
            self._skipped = scalars["skipped"]
