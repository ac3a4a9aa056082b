"""One training session in a run's directory: from its newest sound checkpoint to the end or to a stop."""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from diffusion_jax.config.components import ConfigError, construct
from diffusion_jax.config.description import describe_run
from diffusion_jax.config.experiment import Experiment, as_plain, build_dataset, check_sections
from diffusion_jax.data.pipeline import Batches, in_order
from diffusion_jax.data.sources import Source
from diffusion_jax.runtime import images
from diffusion_jax.runtime.checkpoint import CheckpointError, Checkpoints
from diffusion_jax.runtime.files import lock_workdir, make_workdir
from diffusion_jax.runtime.mesh import check_batch_size, put_batch
from diffusion_jax.runtime.writers import MetricsWriter
from diffusion_jax.training.evaluate import make_evaluate
from diffusion_jax.training.loop import Actions, fit
from diffusion_jax.training.state import TrainState
from diffusion_jax.training.step import TrainStep, make_train_step
from diffusion_jax.workdir.layout import (
    abstract_state,
    check_not_imported,
    check_outside_data,
    checkpoint_items,
)
from diffusion_jax.workdir.load import build_run
from diffusion_jax.workdir.resume import write_config

__all__ = ["Session", "train"]

log = logging.getLogger(__name__)


def train(
    config: ml_collections.ConfigDict | Mapping[str, Any],
    workdir: str | Path,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Trains the experiment of `config` in `workdir`, from its newest sound checkpoint if there is one.

    Returns whether the run is complete; False if `should_stop` ended it, with a checkpoint. Raises ConfigError,
    DataError, CheckpointError or OSError, each with one line that says what to do.

    >>> dj.train(config, "runs/digits")  # doctest: +SKIP
    True
    >>> dj.train({"data": {"name": "Digits"}}, "runs/digits")
    Traceback (most recent call last):
    diffusion_jax.config.components.ConfigError: config.model: the section is missing
    """
    workdir, plain = Path(workdir), as_plain(config)
    check_sections(plain)
    check_not_imported(workdir)
    dataset = build_dataset(plain)
    check_outside_data(workdir, dataset)
    training, held_out = dataset.open()
    experiment = Experiment.from_config(plain, training.image_shape, training.num_classes)
    _check_batch_fits(experiment, training)
    make_workdir(workdir)
    with lock_workdir(workdir):
        write_config(workdir, experiment, training)
        with Checkpoints(workdir / "checkpoints", experiment.plan.keep_checkpoints) as checkpoints:
            return Session(workdir, experiment, training, held_out, checkpoints).run(should_stop)


def _check_batch_fits(experiment: Experiment, training: Source) -> None:
    plan, mesh = experiment.plan, experiment.mesh
    construct(check_batch_size, "train", mesh=mesh, batch_size=plan.batch_size, accumulate=plan.accumulate)
    if plan.batch_size > len(training):
        raise ConfigError(
            f"config.train.batch_size = {plan.batch_size}: the data have only {len(training)} training images; "
            f"use at most {len(training)}"
        )


@dataclasses.dataclass(frozen=True)
class Session:
    """One call of `train`, with everything open."""

    workdir: Path
    experiment: Experiment
    training: Source
    held_out: Source
    checkpoints: Checkpoints

    def run(self, should_stop: Callable[[], bool]) -> bool:
        """Trains to the end or to a stop; returns whether the run is complete."""
        plan = self.experiment.plan
        init_key, step_key, eval_key = jax.random.split(jax.random.key(plan.seed), 3)
        state, start = self._restore_or_init(init_key)
        if start == plan.steps:
            log.info("step %d: complete, nothing left to do", start)
            return True
        self._log_start(state, start)
        with MetricsWriter(self.workdir, start) as writer:
            actions = self._make_actions(writer, eval_key, should_stop)
            batches = self._iterate_batches(start)
            state, step = fit(state, self._make_train_step(), batches, step_key, plan, writer, actions, start)
        self.checkpoints.report(wait=True)
        return step == plan.steps

    def _restore_or_init(self, key: jax.Array) -> tuple[TrainState, int]:
        """The state of the newest sound checkpoint, or a new one, and its step."""
        experiment = self.experiment
        abstract = abstract_state(experiment)
        if self.checkpoints.steps():
            step, items, _ = self.checkpoints.restore(checkpoint_items(abstract))
            return TrainState(**items["rest"], ema_params=items["ema_params"]), step
        shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
        network = experiment.network
        arguments = (network.model, experiment.tx, network.image_shape, shardings, experiment.loss)
        return TrainState.create(key, *arguments), 0

    def _make_train_step(self) -> TrainStep:
        experiment, plan = self.experiment, self.experiment.plan
        return make_train_step(
            experiment.network.model,
            experiment.tx,
            experiment.loss,
            ema_decay=plan.ema_decay,
            accumulate=plan.accumulate,
            mesh=experiment.mesh,
            lr_schedule=experiment.lr_schedule,
        )

    def _iterate_batches(self, start: int) -> Iterator[dict[str, jax.Array]]:
        """Batches start, start + 1, ... on the devices."""
        plan = self.experiment.plan
        batches = Batches(
            self.training,
            plan.batch_size,
            seed=plan.seed,
            flip=self.experiment.dataset.flip,
            process=jax.process_index(),
            processes=jax.process_count(),
        )
        return (put_batch(self.experiment.mesh, batch) for batch in batches.iterate(start))

    def _make_actions(self, writer: MetricsWriter, eval_key: jax.Array, should_stop: Callable[[], bool]) -> Actions:
        experiment, plan = self.experiment, self.experiment.plan
        evaluate = make_evaluate(experiment.network.model, experiment.loss, experiment.mesh)
        return Actions(
            evaluate=lambda state: evaluate(
                state.ema_params,
                in_order(self.held_out, plan.batch_size, plan.eval_examples),
                eval_key,
            ),
            save_samples=lambda state, step: self._save_samples(state, step, writer),
            save=self._save,
            watch=self._report_failed_save,
            should_stop=should_stop,
        )

    def _report_failed_save(self, wait: bool = False) -> None:
        """Logs a background save that has failed. Training continues, because the next save may succeed."""
        try:
            self.checkpoints.report(wait)
        except CheckpointError as error:
            log.error("%s; training continues and will save again", error)

    def _save(self, state: TrainState, step: int) -> None:
        self._report_failed_save(wait=True)
        data = self.training
        description = describe_run(
            self.experiment.config, data.fingerprint, data.image_shape, data.num_classes, data.class_names
        )
        self.checkpoints.save(step, checkpoint_items(state), description)

    def _save_samples(self, state: TrainState, step: int, writer: MetricsWriter) -> None:
        """A grid of samples from the EMA weights, one row per class, from the same noise at every step."""
        experiment = self.experiment
        classes = min(experiment.network.num_classes, 10)
        labels = np.repeat(np.arange(classes), 10) if classes else None
        run = build_run(experiment, state.ema_params, self.training.class_names, {}, step)
        x = run.sample(jax.random.key(experiment.plan.seed), 10 * classes if classes else 64, labels=labels)
        names = None if labels is None else [run.class_name(label) for label in labels]
        grid = images.grid(x, 10 if classes else 8, names)
        (self.workdir / "samples").mkdir(exist_ok=True)
        grid.save(self.workdir / "samples" / f"step_{step:07d}.png")
        grid.save(self.workdir / "samples.png")
        writer.write_image(step, "samples", np.asarray(grid))

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
