"""The training loop: steps, and what is due between them."""

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

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Plan(Checked):
    """The `train` section of a config.

    Attributes:
      steps: length of the run, in batches.
      batch_size: global, over all devices.
      log_every, eval_every, sample_every, checkpoint_every: in steps; 0 for only at the end.
      eval_examples: how many held-out examples an evaluation sees; 0 for all.
      keep_checkpoints: how many checkpoints to keep, the newest.
      ema_decay: of the averaged parameters, which are what is sampled.
      accumulate: micro-batches that a batch is computed in, where it does not fit the device at once.
      seed: of everything: parameters, order of the data, noise, dropout, samples.
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


@dataclasses.dataclass(frozen=True)
class Actions:
    """What the loop does with a state when it is due."""

    evaluate: Callable[[TrainState], dict[str, float]]
    draw_samples: Callable[[TrainState, int], None]
    save: Callable[[TrainState, int], None]
    watch: Callable[[], None] = lambda: None  # called at each log point
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
    """Trains from step `start` (that of `state`) to plan.steps, or until actions.should_stop().

    `batches` gives batch start, start + 1, .. on the device. The host waits for the device at log
    points only, and there for the metrics of the log point before. Returns the state and its step.
    """
    step = start
    with _Log(writer, plan, start) as logger:
        while step < plan.steps and not actions.should_stop():
            state, metrics = train_step(state, next(batches), key)
            step += 1
            if _due(step, plan.log_every, plan):
                logger.log(step, metrics)
                actions.watch()
            _act(state, step, plan, writer, actions, logger)
        logger.flush()
    if start < step < plan.steps and not _due(step, plan.checkpoint_every, plan):
        actions.save(state, step)  # stopped between two checkpoints
    return state, step


def _act(
    state: TrainState,
    step: int,
    plan: Plan,
    writer: MetricsWriter,
    actions: Actions,
    logger: "_Log",
) -> None:
    """Evaluation, samples and checkpoint where they are due at `step`."""
    if any(_due(step, every, plan) for every in (plan.eval_every, plan.sample_every, plan.checkpoint_every)):
        # XLA's emulated devices share their threads: a run on two of them stopped twice in the all-reduce of
        # a step while the programs of a checkpoint were queued beside it.
        jax.block_until_ready(state)
    if _due(step, plan.eval_every, plan):
        logger.flush()
        off_schedule = not plan.eval_every or step % plan.eval_every != 0
        writer.write(step, actions.evaluate(state), final=off_schedule)
    if _due(step, plan.sample_every, plan):
        actions.draw_samples(state, step)
    if _due(step, plan.checkpoint_every, plan):
        logger.flush()  # a checkpoint at step k stands beside the record up to k
        actions.save(state, step)


def _due(step: int, every: int, plan: Plan) -> bool:
    return step == plan.steps or (every > 0 and step % every == 0)


class _Log:
    """Writes the metrics of a log point at the next one, when they have long been computed."""

    def __init__(self, writer: MetricsWriter, plan: Plan, start: int):
        self._writer, self._plan = writer, plan
        self._waiting: tuple[int, Metrics] | None = None
        self._skipped = 0
        self._last, self._clock = start, time.perf_counter()
        self._bar = tqdm.tqdm(
            total=plan.steps * plan.batch_size,
            initial=start * plan.batch_size,
            unit="img",
            unit_scale=True,
            desc=f"step {start}/{plan.steps}, compiling",
            dynamic_ncols=True,
        )

    def __enter__(self) -> "_Log":
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.close()

    def log(self, step: int, metrics: Metrics) -> None:
        self.flush()
        jax.tree.map(lambda x: x.copy_to_host_async(), metrics)
        self._waiting = step, metrics

    def flush(self) -> None:
        if self._waiting is None:
            return
        (step, metrics), self._waiting = self._waiting, None
        scalars: dict[str, Any] = {name: x.item() for name, x in jax.device_get(metrics).items()}
        plan = self._plan
        off_schedule = not plan.log_every or step % plan.log_every != 0
        self._writer.write(step, scalars, final=off_schedule)
        self._show(step, scalars)

    def _show(self, step: int, scalars: dict[str, Any]) -> None:
        images, now = (step - self._last) * self._plan.batch_size, time.perf_counter()
        self._writer.write_speed(step, images / (now - self._clock))
        self._last, self._clock = step, now
        self._bar.set_description(f"step {step}/{self._plan.steps}", refresh=False)
        self._bar.set_postfix(loss=f"{scalars['loss']:.4f}", refresh=False)
        self._bar.update(images)
        if scalars["skipped"] > self._skipped:
            log.warning(
                "step %d: %d batches so far had a loss or gradient that is not finite and were skipped; "
                "lower the learning rate or clip the gradient if this goes on",
                step,
                scalars["skipped"],
            )
            self._skipped = scalars["skipped"]
