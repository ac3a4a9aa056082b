"""What a training run computes: its training step, its batches and its keys, from an experiment."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from diffusion_jax.config.experiment import Experiment
from diffusion_jax.data.on_device import make_gather
from diffusion_jax.data.pipeline import Batch, Batches
from diffusion_jax.data.sources import Source
from diffusion_jax.runtime.mesh import put_batch
from diffusion_jax.training.plan import Plan
from diffusion_jax.training.several import TrainSteps, make_train_steps
from diffusion_jax.training.step import TrainStep, make_train_step

__all__ = [
    "Keys",
    "abstract_batch",
    "build_call",
    "build_train_step",
    "iterate_batches",
    "make_batches",
    "split_seed",
]


class Keys(NamedTuple):
    """The keys of a run: of the first parameters, of the steps and of the evaluations."""

    init: jax.Array
    step: jax.Array
    evaluation: jax.Array


def split_seed(seed: int) -> Keys:
    """The keys that belong to `train.seed`."""
    return Keys(*jax.random.split(jax.random.key(seed), 3))


def build_call(experiment: Experiment) -> TrainStep | TrainSteps:
    """What the training loop calls: the training step or, with train.steps_per_call > 1, several of them."""
    train_step = build_train_step(experiment)
    several = experiment.plan.steps_per_call > 1
    return make_train_steps(train_step, experiment.mesh) if several else train_step


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
    """The batches of each call of the training step from step `start` on, on the devices; see `fit`."""
    batches, mesh, plan = make_batches(experiment, training), experiment.mesh, experiment.plan
    stacked = plan.steps_per_call > 1
    if plan.data_on_device:
        gather, choices = make_gather(training, mesh, stacked), batches.iterate_choices(start)
        return (gather(put_batch(mesh, each, stacked)) for each in _stack_calls(choices, plan, start))
    return (put_batch(mesh, each, stacked) for each in _stack_calls(batches.iterate(start), plan, start))


def _stack_calls(batches: Iterator[Batch], plan: Plan, start: int) -> Iterator[Batch]:
    """The batches of each call: as they are, or stacked; the last ones of a shorter call are repetitions."""
    for n in plan.calls(start):
        parts = [next(batches) for _ in range(n)]
        if plan.steps_per_call == 1:
            yield parts[0]
            continue
        parts += [parts[-1]] * (plan.steps_per_call - n)
        yield {name: np.stack([part[name] for part in parts]) for name in parts[0]}


def abstract_batch(experiment: Experiment, training: Source, stacked: bool = False) -> dict[str, Any]:
    """Shapes and dtypes of a batch of all processes; `stacked`, of those of a call."""
    plan = experiment.plan
    size = (*[plan.steps_per_call] * stacked, plan.batch_size)
    shapes = {"image": jax.ShapeDtypeStruct((*size, *training.image_shape), training.dtype)}
    return shapes | ({"label": jax.ShapeDtypeStruct(size, np.int32)} if training.num_classes else {})
