"""One training session in a run's directory: from its newest sound checkpoint to the end or to a stop."""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from diffusion_jax.config.components import ConfigError
from diffusion_jax.config.description import describe_run
from diffusion_jax.config.experiment import Experiment
from diffusion_jax.data.pipeline import Batch, in_order
from diffusion_jax.data.sources import Source
from diffusion_jax.runtime.checkpoint import Checkpoints
from diffusion_jax.runtime.errors import CheckpointError, TargetError
from diffusion_jax.runtime.place import Place
from diffusion_jax.runtime.processes import from_owner, is_owner, process_rows
from diffusion_jax.runtime.stopping import Stop
from diffusion_jax.runtime.weights import Weights
from diffusion_jax.runtime.writers import MetricsWriter, OnImages, OnMetrics
from diffusion_jax.training.estimate import warn_of_slow_cpu
from diffusion_jax.training.evaluate import make_evaluate
from diffusion_jax.training.loop import Actions, fit
from diffusion_jax.training.metrics_log import TrainingError
from diffusion_jax.training.plan import Due
from diffusion_jax.training.state import TrainState
from diffusion_jax.workdir.initial import start_from
from diffusion_jax.workdir.layout import abstract_state, checkpoint_items, init_state
from diffusion_jax.workdir.load import build_run
from diffusion_jax.workdir.program import abstract_batch, build_train_step, iterate_batches, split_seed
from diffusion_jax.workdir.resume import Change, write_config
from diffusion_jax.workdir.samples import draw_samples, sample_path, write_samples

__all__ = ["Session"]

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Session:
    """One call of `train`, with everything open.

    Attributes:
      changes: what earlier resumptions of this run have changed.
      new_changes: what this one changes, without the step.
      weights: what new parameters start from; None for random ones.
    """

    workdir: Place
    experiment: Experiment
    training: Source
    held_out: Source
    checkpoints: Checkpoints
    stop: Stop
    on_metrics: OnMetrics | None = None
    on_images: OnImages | None = None
    changes: list[Change] = dataclasses.field(default_factory=list)
    new_changes: list[Change] = dataclasses.field(default_factory=list)
    weights: Weights | None = None

    def run(self) -> bool:
        """Trains to the end or to a stop; returns whether the run is complete."""
        plan = self.experiment.plan
        keys = split_seed(plan.seed)
        state, start = self._restore_or_init(keys.init)
        self._record(start)
        with MetricsWriter(self.workdir, start, start == plan.steps, self.on_metrics, self.on_images) as writer:
            missing = self._find_missing(start, writer)
            if start == plan.steps and not any(missing):
                log.info("step %d: complete, nothing left to do", start)
                return True
            self._log_start(state, start)
            if self.weights is not None:
                self._save(state, 0, writer)  # a kill must not make it start again from a source that has changed
            actions = self._make_actions(writer, keys.evaluation, missing)
            with self.stop.listen():
                step = self._fit(state, keys.step, writer, actions, start)
        if step < plan.steps:
            log.info("stopped after step %d; run the same command to resume", step)
        return step == plan.steps

    def _record(self, start: int) -> None:
        """Writes config.json, once the state is known to fit: a refused change leaves the run as it was."""
        for change in self.new_changes:
            log.info("%s: %s until step %d, from there %s", change["field"], change["before"], start, change["after"])
            self.changes.append({"step": start, **change})
        if is_owner():
            write_config(self.workdir, self.experiment, self.training, self.changes)

    def _fit(self, state: TrainState, key: jax.Array, writer: MetricsWriter, actions: Actions, start: int) -> int:
        """Trains and waits for the last checkpoint; returns its step."""
        experiment, plan = self.experiment, self.experiment.plan
        batches, train_step = iterate_batches(experiment, self.training, start), build_train_step(experiment)
        if is_owner():
            batch = abstract_batch(experiment, self.training)
            warn_of_slow_cpu(train_step, state, batch, key, plan.steps - start)
        try:
            _, step = fit(state, train_step, batches, key, plan, writer, actions, start, self.stop)
        except TrainingError as error:
            newest = self.checkpoints.steps()[-1:]
            saved = f"the newest checkpoint is step {newest[0]}" if newest else "there is no checkpoint"
            raise TrainingError(f"{error}; {saved}") from error
        self.checkpoints.report(wait=True)
        if step not in [start, *self.checkpoints.steps()]:
            raise CheckpointError(f"step {step} could not be saved, see above; run the same command to resume")
        return step

    def _find_missing(self, step: int, writer: MetricsWriter) -> Due:
        """What was due after `step` steps, but came after the checkpoint of that step and was interrupted."""
        due = self.experiment.plan.due(step) if step else Due()
        evaluate = due.evaluate and not writer.has(step, "eval_loss")
        sample = due.sample and not self._sample_path(step).exists()
        return Due(False, *from_owner((evaluate, sample)))

    def _restore_or_init(self, key: jax.Array) -> tuple[TrainState, int]:
        """The state of the newest sound checkpoint, or a new one, and its step."""
        experiment = self.experiment
        abstract = abstract_state(experiment)
        if self.checkpoints.steps():
            step, items = self._restore(abstract)
            return TrainState(**items["rest"], ema_params=items["ema_params"]), step
        self.checkpoints.probe()
        state = init_state(key, experiment, jax.tree.map(lambda leaf: leaf.sharding, abstract))
        return (state if self.weights is None else start_from(state, self.weights, experiment.tx)), 0

    def _restore(self, abstract: TrainState) -> tuple[int, dict[str, Any]]:
        try:
            step, items, _ = self.checkpoints.restore(checkpoint_items(abstract))
        except TargetError as error:
            fields = ", ".join(change["field"] for change in self.new_changes) or "the config"
            raise ConfigError(
                f"{fields}: the state of the run does not fit what was changed ({error}); set it back, or start a new "
                "run from this one with config.train.init_from"
            ) from error
        return step, items

    def _make_actions(self, writer: MetricsWriter, eval_key: jax.Array, missing: Due) -> Actions:
        experiment, plan = self.experiment, self.experiment.plan
        evaluate = make_evaluate(experiment.network.model, experiment.loss, experiment.mesh)

        def held_out() -> Iterator[tuple[Batch, np.ndarray]]:
            share = process_rows(plan.batch_size)
            return self.stop.until_signal(in_order(self.held_out, plan.batch_size, plan.eval_examples, share))

        return Actions(
            evaluate=lambda state: evaluate(state.ema_params, held_out(), eval_key),
            save_samples=lambda state, step: self._save_samples(state, step, writer),
            save=lambda state, step: self._save(state, step, writer),
            watch=self._report_failed_save,
            missing=missing,
        )

    def _report_failed_save(self, wait: bool = False) -> None:
        with self._failed_save():
            self.checkpoints.report(wait)

    @contextlib.contextmanager
    def _failed_save(self) -> Iterator[None]:
        """Logs a save that has failed. Training continues, because the next may succeed, unless the plan says stop."""
        try:
            yield
        except CheckpointError as error:
            if self.experiment.plan.stop_if_save_fails:
                raise
            log.error("%s; training continues and will save again", error)

    def _save(self, state: TrainState, step: int, writer: MetricsWriter) -> None:
        self._report_failed_save(wait=True)
        writer.flush()  # the record beside a checkpoint of step k reaches step k
        data = self.training
        description = describe_run(
            self.experiment.config,
            data.fingerprint,
            data.image_shape,
            data.num_classes,
            data.class_names,
            self.changes,
        )
        with self._failed_save():
            self.checkpoints.save(step, checkpoint_items(state), description)

    def _save_samples(self, state: TrainState, step: int, writer: MetricsWriter) -> None:
        run = build_run(self.experiment, state.ema_params, self.training.class_names, {}, step)
        x, labels = draw_samples(run, self.experiment.plan.seed)
        if is_owner():
            write_samples(self._sample_path(step), x, labels, run, step, writer)

    def _sample_path(self, step: int) -> Place:
        return sample_path(self.workdir, self.experiment, step)

    def _log_start(self, state: TrainState, start: int) -> None:
        devices = self.experiment.mesh.devices.flatten()
        log.info(
            "%s: %s parameters; %d images %s, %d held out; %d x %s",
            type(self.experiment.network.model).__name__,
            f"{sum(leaf.size for leaf in jax.tree.leaves(state.params)):,}".replace(",", " "),
            len(self.training),
            "x".join(map(str, self.training.image_shape)),
            len(self.held_out),
            len(devices),
            devices[0].device_kind,
        )
        if start:
            log.info("resuming after step %d", start)
