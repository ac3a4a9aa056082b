"""What a training run computes: its training step, its batches and its keys, from an experiment."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from diffusion_jax.config.experiment import Experiment
from diffusion_jax.data.pipeline import Batches
from diffusion_jax.data.sources import Source
from diffusion_jax.runtime.mesh import put_batch
from diffusion_jax.training.step import TrainStep, make_train_step

__all__ = ["Keys", "abstract_batch", "build_train_step", "iterate_batches", "make_batches", "split_seed"]


class Keys(NamedTuple):
    """The keys of a run: of the first parameters, of the steps and of the evaluations."""

    init: jax.Array
    step: jax.Array
    evaluation: jax.Array


def split_seed(seed: int) -> Keys:
    """The keys that belong to `train.seed`."""
    return Keys(*jax.random.split(jax.random.key(seed), 3))


def build_train_step(experiment: Experiment) -> TrainStep:
    """The training step of an experiment, not compiled yet."""
    plan = experiment.plan
    return make_train_step(
        experiment.network.model,
        experiment.tx,
        experiment.loss,
        ema_decay=plan.ema_decay,
        accumulate=plan.accumulate,
        mesh=experiment.mesh,
        lr_schedule=experiment.lr_schedule,
        skip_spikes=plan.skip_spikes,
    )


def make_batches(experiment: Experiment, training: Source) -> Batches:
    """The batches of this process."""
    plan = experiment.plan
    return Batches(
        training,
        plan.batch_size,
        seed=plan.seed,
        flip=experiment.dataset.flip,
        process=jax.process_index(),
        processes=jax.process_count(),
    )


def iterate_batches(experiment: Experiment, training: Source, start: int) -> Iterator[dict[str, jax.Array]]:
    """Batches start, start + 1, ... on the devices."""
    batches = make_batches(experiment, training).iterate(start)
    return (put_batch(experiment.mesh, batch) for batch in batches)


def abstract_batch(experiment: Experiment, training: Source) -> dict[str, Any]:
    """Shapes and dtypes of a batch of all processes."""
    size = experiment.plan.batch_size
    shapes = {"image": jax.ShapeDtypeStruct((size, *training.image_shape), training.dtype)}
    return shapes | ({"label": jax.ShapeDtypeStruct((size,), np.int32)} if training.num_classes else {})
