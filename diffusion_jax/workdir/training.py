"""Trains the experiment of a config in a directory."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections

from diffusion_jax.config.components import ConfigError
from diffusion_jax.config.experiment import as_plain
from diffusion_jax.runtime.checkpoint import Checkpoints
from diffusion_jax.runtime.place import run_path
from diffusion_jax.runtime.processes import synchronize
from diffusion_jax.runtime.stopping import Stop
from diffusion_jax.runtime.writers import OnImages, OnMetrics
from diffusion_jax.validation import describe
from diffusion_jax.workdir.layout import own_workdir
from diffusion_jax.workdir.preparation import prepare, read_initial
from diffusion_jax.workdir.resume import find_changes, read_changes
from diffusion_jax.workdir.session import Session

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

    Returns whether the run is complete; False if `should_stop()`, which is called before each step (with
    train.steps_per_call before each call), ended it, with a checkpoint. SIGINT, SIGTERM and SIGHUP save a checkpoint as
    well, and then raise KeyboardInterrupt or SystemExit; a second signal ends the process at once. Signals are left
    alone outside the main thread, and where the caller has handlers of its own.

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
    experiment, training, held_out = prepare(plain, directory, dataset)
    weights = read_initial(directory, experiment)
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
    stop.raise_signal()
    return complete


def _check_functions(**functions: Any) -> None:
    for name, function in functions.items():
        if not (callable(function) or function is None):
            raise ConfigError(f"{name} = {describe(function)}: must be a function")
