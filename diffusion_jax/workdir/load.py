"""Loads the network of a training run."""

import os
from typing import Any

from diffusion_jax.config.description import check_description
from diffusion_jax.config.experiment import Experiment
from diffusion_jax.run import Run
from diffusion_jax.runtime.checkpoint import Checkpoints
from diffusion_jax.runtime.errors import CheckpointError
from diffusion_jax.runtime.place import run_path
from diffusion_jax.workdir.layout import abstract_state

__all__ = ["build_run", "load"]


def load(workdir: str | os.PathLike, *, allow_code: bool = False) -> Run:
    """Loads the network of a training run, with the EMA weights of its newest sound checkpoint.

    `workdir` is a directory of this machine or gs://bucket/run. Everything is read from the checkpoint itself. The
    devices need not be the same as in training. A component of the user's own ("pkg.module:Name") is imported only with
    `allow_code`. Raises CheckpointError if there is no sound checkpoint, and ConfigError if its config cannot be used.

    >>> run = dj.load("runs/digits")  # doctest: +SKIP
    >>> dj.load("nowhere")
    Traceback (most recent call last):
    diffusion_jax.runtime.errors.CheckpointError: no checkpoint in nowhere; train first, or use another directory
    """
    directory = run_path("workdir", workdir) / "checkpoints"
    if not directory.is_dir():
        raise CheckpointError(f"no checkpoint in {workdir}; train first, or use another directory")
    with Checkpoints(directory, read_only=True) as checkpoints:
        description = check_description(checkpoints.describe())
        config = description["config"] | {"mesh": {}}  # all devices that are here, not those of the training
        image_shape = tuple(description["image_shape"])
        experiment = Experiment.from_config(config, image_shape, description["num_classes"], allow_code)
        target = {"ema_params": abstract_state(experiment).ema_params}
        step, restored, description = checkpoints.restore(target)
        check_description(description)
    return build_run(experiment, restored["ema_params"], description["class_names"], description["config"], step)


def build_run(experiment: Experiment, params: Any, class_names: Any, config: dict[str, Any], step: int) -> Run:
    """The run that generates images with the parameters `params` of an experiment."""
    return Run(
        network=experiment.network,
        params=params,
        sampling=experiment.sampling,
        mesh=experiment.mesh,
        class_names=tuple(class_names),
        config=config,
        step=step,
    )
