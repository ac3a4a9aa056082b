"""One training session in a run's directory: from its newest sound checkpoint to the end or to a stop."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
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
from diffusion_jax.training.step import make_train_step
from diffusion_jax.workdir.layout import (
    abstract_state,
    check_not_imported,
    check_outside_data,
    checkpoint_items,
)
from diffusion_jax.workdir.load import build_run
from diffusion_jax.workdir.resume import write_config

log = logging.getLogger(__name__)


def train(
    config: ml_collections.ConfigDict | Mapping[str, Any],
    workdir: str | Path,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Trains the experiment of `config` in `workdir`, from its newest sound checkpoint if there is one.

    Returns whether the run is complete; not so when `should_stop` ended it, with a checkpoint.
    Raises ConfigError, DataError, CheckpointError or OSError, each with one line that says what to do.
    """
    plain = as_plain(config)
    check_sections(plain)
    check_not_imported(Path(workdir))
    dataset = build_dataset(plain)
    check_outside_data(Path(workdir), dataset)
    training, held_out = dataset.open()
    experiment = Experiment.from_config(plain, training.image_shape, training.num_classes)
    plan = experiment.plan
    construct(
        check_batch_size,
        "train",
        mesh=experiment.mesh,
        batch_size=plan.batch_size,
        accumulate=plan.accumulate,
    )
    if plan.batch_size > len(training):
        raise ConfigError(
            f"config.train.batch_size = {plan.batch_size}: the data have only {len(training)} training "
            "pictures; use at most so many"
        )
    folder = Path(workdir)
    make_workdir(folder)
    with lock_workdir(folder):
        write_config(folder, experiment, training)
        with Checkpoints(folder / "checkpoints", plan.keep_checkpoints) as checkpoints:
            return Session(folder, experiment, training, held_out, checkpoints).run(should_stop)


@dataclasses.dataclass(frozen=True)
class Session:
    """One call of `train`, with everything open."""

    folder: Path
    experiment: Experiment
    training: Source
    held_out: Source
    checkpoints: Checkpoints

    def run(self, should_stop: Callable[[], bool]) -> bool:
        experiment, plan = self.experiment, self.experiment.plan
        init_key, step_key, eval_key = jax.random.split(jax.random.key(plan.seed), 3)
        state, start = self._start(init_key)
        if start == plan.steps:
            log.info("step %d: complete, nothing is left to do", start)
            return True
        _log_start(experiment, state, self.training, self.held_out, start)
        step_fn = make_train_step(
            experiment.network.model,
            experiment.tx,
            experiment.loss,
            ema_decay=plan.ema_decay,
            accumulate=plan.accumulate,
            mesh=experiment.mesh,
            lr_schedule=experiment.lr_schedule,
        )
        evaluate = make_evaluate(experiment.network.model, experiment.loss, experiment.mesh)
        batches = Batches(
            self.training,
            plan.batch_size,
            seed=plan.seed,
            flip=experiment.dataset.flip,
            process=jax.process_index(),
            processes=jax.process_count(),
        )
        device_batches = (put_batch(experiment.mesh, b) for b in batches.iterate(start))
        with MetricsWriter(self.folder, start) as writer:
            actions = Actions(
                evaluate=lambda state: evaluate(
                    state.ema_params,
                    in_order(self.held_out, plan.batch_size, plan.eval_examples),
                    eval_key,
                ),
                draw_samples=lambda state, step: self._draw(state, step, writer),
                save=self._save,
                watch=self._watch,
                should_stop=should_stop,
            )
            state, step = fit(state, step_fn, device_batches, step_key, plan, writer, actions, start)
        self.checkpoints.report(wait=True)
        return step == plan.steps

    def _start(self, key: jax.Array) -> tuple[TrainState, int]:
        """The state of the newest sound checkpoint, or a new one."""
        experiment = self.experiment
        abstract = abstract_state(experiment)
        if self.checkpoints.steps():
            step, items, _ = self.checkpoints.restore(checkpoint_items(abstract))
            return TrainState(**items["rest"], ema_params=items["ema_params"]), step
        shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
        network = experiment.network
        arguments = (network.model, experiment.tx, network.image_shape, shardings, experiment.loss)
        state = TrainState.create(key, *arguments)
        return state, 0

    def _watch(self, wait: bool = False) -> None:
        """Tells of a background save that has failed. Training goes on: the next save may succeed."""
        try:
            self.checkpoints.report(wait)
        except CheckpointError as error:
            log.error("%s; training goes on and will save again", error)

    def _save(self, state: TrainState, step: int) -> None:
        self._watch(wait=True)
        data = self.training
        about = describe_run(
            self.experiment.config, data.fingerprint, data.image_shape, data.num_classes, data.class_names
        )
        self.checkpoints.save(step, checkpoint_items(state), about)

    def _draw(self, state: TrainState, step: int, writer: MetricsWriter) -> None:
        """A grid from the EMA weights, of the same noise each time; a row for each class."""
        experiment = self.experiment
        classes = experiment.network.num_classes
        shown = min(classes, 10)
        labels = np.repeat(np.arange(shown), 10) if classes else None
        run = build_run(experiment, state.ema_params, self.training.class_names, {}, step)
        key = jax.random.key(experiment.plan.seed)
        x = run.sample(key, 10 * shown if classes else 64, labels=labels)
        names = None if labels is None else [run.class_name(label) for label in labels]
        picture = images.grid(x, 10 if classes else 8, names)
        (self.folder / "samples").mkdir(exist_ok=True)
        picture.save(self.folder / "samples" / f"step_{step:07d}.png")
        picture.save(self.folder / "samples.png")
        writer.write_image(step, "samples", np.asarray(picture))


def _log_start(experiment: Experiment, state: TrainState, training: Source, held_out: Source, start: int) -> None:
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    devices = experiment.mesh.devices.flatten()
    log.info(
        "%s: %s parameters; %d pictures %s, %d held out; %d x %s",
        type(experiment.network.model).__name__,
        f"{parameters:,}".replace(",", " "),
        len(training),
        "x".join(map(str, training.image_shape)),
        len(held_out),
        len(devices),
        devices[0].device_kind,
    )
    if start:
        log.info("resuming after step %d", start)
