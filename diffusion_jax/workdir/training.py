"""Trains the experiment of a config in a directory."""

import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections

from diffusion_jax.config.components import ConfigError, construct
from diffusion_jax.config.experiment import Experiment, as_plain, build_dataset, check_sections
from diffusion_jax.config.from_data import with_classes, with_dataset
from diffusion_jax.data.sources import Dataset, Source
from diffusion_jax.run import Network
from diffusion_jax.runtime.checkpoint import Checkpoints
from diffusion_jax.runtime.mesh import check_batch_size
from diffusion_jax.runtime.place import Place, complete_steps, run_path
from diffusion_jax.runtime.processes import synchronize
from diffusion_jax.runtime.stopping import Stop
from diffusion_jax.runtime.weights import Weights
from diffusion_jax.runtime.writers import OnImages, OnMetrics
from diffusion_jax.validation import describe
from diffusion_jax.workdir.initial import check_initial
from diffusion_jax.workdir.layout import abstract_state, check_not_imported, check_outside_data, own_workdir
from diffusion_jax.workdir.load import find_weights
from diffusion_jax.workdir.resume import check_data_are_here, classes_of_run, find_changes, read_changes
from diffusion_jax.workdir.session import Session

log = logging.getLogger(__name__)

__all__ = ["train"]


def train(
    config: ml_collections.ConfigDict | Mapping[str, Any],
    workdir: str | os.PathLike,
    dataset: Any = None,
    on_metrics: OnMetrics | None = None,
    on_images: OnImages | None = None,
    should_stop: Callable[[], bool] | None = None,
    *,
    accept: Sequence[str] = (),
) -> bool:
    """Trains the experiment of `config` in `workdir`, from its newest sound checkpoint if there is one.

    Where `model.num_classes` is left out, it is the data's (see `config.from_data`).

    `dataset` is the data instead of the section `data`: a `Dataset`, images [N, H, W, C], a pair (images, labels), or a
    sequence of dicts, as `dj.sources.UserData` describes them. To resume, pass it again.

    `accept` names fields that may differ from the run in `workdir`, such as ["optimizer.lr_schedule",
    "train.batch_size"]: the run goes on with their new values, and config.json and the checkpoints record the change.

    Returns whether the run is complete; False if `should_stop()`, which is called before each step, ended it, with a
    checkpoint. SIGINT, SIGTERM and SIGHUP save a checkpoint as well, and then raise KeyboardInterrupt or SystemExit; a
    second signal ends the process at once. Signals are left alone outside the main thread, and where the caller has
    handlers of its own.

    For a logger of your own, `on_metrics(step, metrics)` receives each line of the record, a dict of numbers, and the
    speed as {"images_per_second": ...}, and `on_images(step, image)` each grid of samples, uint8 [H, W, 3]; a grid
    needs images of 1 or 3 channels, others are written to samples/ as arrays. A resumed
    run tells the steps after its checkpoint again. If one of them raises, that is a warning, and training continues.

    With several processes (`dj.processes.initialize()`), all call this function with the same arguments, and the
    directory must be one that all of them see; one of them calls `on_metrics` and `on_images`. It may be in Google
    Cloud Storage: gs://bucket/run.

    Raises ConfigError, DataError, CheckpointError, TrainingError or OSError, each with one line that says what to do.

    >>> dj.train(config, "runs/digits")  # doctest: +SKIP
    True
    >>> dj.train({"data": {"name": "Digits"}}, "runs/digits")
    Traceback (most recent call last):
    diffusion_jax.config.components.ConfigError: config.model: the section is missing
    """
    _check_functions(should_stop=should_stop, on_metrics=on_metrics, on_images=on_images)
    directory, plain = run_path("workdir", workdir), as_plain(config)
    if dataset is None:
        check_data_are_here(directory)
    plain, data = _find_data(plain, dataset)
    check_not_imported(directory)
    check_outside_data(directory, data)
    training, held_out = data.open()
    # A run keeps the classes that it began with, also one from before they came from the data.
    begun = classes_of_run(directory)
    plain = with_classes(plain, training.num_classes if begun is None else begun)
    experiment = Experiment.from_config(
        plain, training.image_shape, training.num_classes, largest=max(training.largest, held_out.largest)
    )
    _tell_unused_labels(experiment.network, training)
    _check_batch_fits(experiment, training)
    weights = _read_initial(directory, experiment)
    with own_workdir(directory) as check_lock:

        def wants_to_stop() -> bool:
            check_lock()
            return should_stop is not None and should_stop()

        stop = Stop(wants_to_stop)
        changes = read_changes(directory), find_changes(directory, experiment, training, accept)
        synchronize("config.json is read")  # before process 0 writes it
        with Checkpoints(directory / "checkpoints", experiment.plan.keep_checkpoints) as checkpoints:
            complete = Session(
                directory, experiment, training, held_out, checkpoints, stop, on_metrics, on_images, *changes, weights
            ).run()
    if stop.reason == signal.SIGINT:
        raise KeyboardInterrupt
    if stop.reason in (signal.SIGTERM, getattr(signal, "SIGHUP", None)):  # the latter is not on Windows
        raise SystemExit(128 + stop.reason)
    return complete


def _find_data(plain: dict[str, Any], dataset: Any) -> tuple[dict[str, Any], Dataset]:
    """The config with its section `data`, and the data set."""
    if dataset is not None:
        filled, data = with_dataset(plain, dataset)
        plain = as_plain(filled)
        check_sections(plain)
        return plain, data
    check_sections(plain)
    return plain, build_dataset(plain)


def _read_initial(workdir: Place, experiment: Experiment) -> Weights | None:
    """The weights of `train.init_from`, which fit; None if there are none, or if the run has begun."""
    plan = experiment.plan
    if not plan.init_from or complete_steps(workdir / "checkpoints"):
        return None
    weights = find_weights("config.train.init_from", plan.init_from)
    check_initial(plan, weights, abstract_state(experiment).ema_params)
    return weights


def _check_functions(**functions: Any) -> None:
    for name, function in functions.items():
        if not (callable(function) or function is None):
            raise ConfigError(f"{name} = {describe(function)}: must be a function")


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
