"""What a training run needs before it starts: a config as checked objects, with the data open. Nothing is written."""

import logging
from typing import Any, NamedTuple

import jax

from diffusion_jax.config.components import ConfigError, construct
from diffusion_jax.config.experiment import Experiment, as_plain, build_dataset, check_sections
from diffusion_jax.config.from_data import with_classes, with_dataset
from diffusion_jax.data.on_device import count_bytes
from diffusion_jax.data.sources import Dataset, Source
from diffusion_jax.run import Network
from diffusion_jax.runtime.mesh import check_batch_size, find_capacity
from diffusion_jax.runtime.place import Place, complete_steps
from diffusion_jax.runtime.weights import Weights
from diffusion_jax.workdir.initial import check_initial
from diffusion_jax.workdir.layout import abstract_state, check_not_imported, check_outside_data
from diffusion_jax.workdir.load import find_weights
from diffusion_jax.workdir.resume import check_data_are_here, classes_of_run

__all__ = ["Prepared", "prepare", "read_initial"]

log = logging.getLogger(__name__)


class Prepared(NamedTuple):
    """An experiment and its data, which fit each other."""

    experiment: Experiment
    training: Source
    held_out: Source


def prepare(
    plain: dict[str, Any],
    directory: Place | None = None,
    dataset: Any = None,
    devices: list[jax.Device] | None = None,
) -> Prepared:
    """Opens the data of a config, plain JSON values, and builds its experiment for a run in `directory`.

    `dataset` is the data instead of the section `data`, `devices` are those of the mesh, by default all. Raises
    ConfigError or DataError if the run cannot work.
    """
    if directory is not None and dataset is None:
        check_data_are_here(directory)
    plain, data = _find_data(plain, dataset)
    if directory is not None:
        check_not_imported(directory)
        check_outside_data(directory, data)
    training, held_out = data.open()
    # A run keeps the classes that it began with, also one from before they came from the data.
    begun = None if directory is None else classes_of_run(directory)
    plain = with_classes(plain, training.num_classes if begun is None else begun)
    largest = max(training.largest, held_out.largest)
    shape, classes = training.image_shape, training.num_classes
    experiment = Experiment.from_config(plain, shape, classes, largest=largest, devices=devices)
    _tell_unused_labels(experiment.network, training)
    _check_batch_fits(experiment, training)
    if devices is None:  # others may not be here, and cannot be asked
        _check_data_fit(experiment, training)
    return Prepared(experiment, training, held_out)


def _find_data(plain: dict[str, Any], dataset: Any) -> tuple[dict[str, Any], Dataset]:
    """The config with its section `data`, and the data set."""
    if dataset is not None:
        filled, data = with_dataset(plain, dataset)
        plain = as_plain(filled)
        check_sections(plain)
        return plain, data
    check_sections(plain)
    return plain, build_dataset(plain)


def read_initial(directory: Place | None, experiment: Experiment) -> Weights | None:
    """The weights of `train.init_from`, which fit; None if there are none, or if the run has begun."""
    plan = experiment.plan
    begun = directory is not None and complete_steps(directory / "checkpoints")
    if begun or not plan.init_from:
        return None
    weights = find_weights("config.train.init_from", plan.init_from)
    check_initial(plan, weights, abstract_state(experiment).ema_params)
    return weights


def _tell_unused_labels(network: Network, training: Source) -> None:
    """Says what a network that leaves labels out, or always has them, will never do."""
    if training.num_classes and not network.num_classes:
        log.info("model.num_classes = 0: the labels of the data are not used, and classes cannot be chosen later")
    if network.num_classes and not network.unlabelled:
        log.warning("loss.label_drop = 0: every label is seen in training, so that guidance is impossible later")


def _check_batch_fits(experiment: Experiment, training: Source) -> None:
    plan, mesh = experiment.plan, experiment.mesh
    construct(check_batch_size, "train", mesh=mesh, batch_size=plan.batch_size, accumulate=plan.accumulate)
    if plan.batch_size > len(training):
        raise ConfigError(
            f"config.train.batch_size = {plan.batch_size}: the data have only {len(training)} training images; "
            f"use at most {len(training)}"
        )


def _check_data_fit(experiment: Experiment, training: Source) -> None:
    """Raises ConfigError if the images are to be kept on devices that are smaller."""
    if not experiment.plan.data_on_device:
        return
    size, capacity = count_bytes(training), find_capacity(experiment.mesh)
    if size > capacity > 0:
        raise ConfigError(
            f"config.train.data_on_device = True: the training images take {size / 2**30:.3g} GiB, and a device has "
            f"{capacity / 2**30:.3g} GiB; use False"
        )
