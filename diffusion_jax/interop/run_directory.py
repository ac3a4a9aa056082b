"""Writes imported weights as the directory of a run, for `dj.load` and the commands."""

import json
import os
from collections.abc import Mapping
from typing import Any

from diffusion_jax.config.components import ConfigError
from diffusion_jax.config.description import describe_run
from diffusion_jax.config.experiment import Experiment
from diffusion_jax.runtime.checkpoint import Checkpoints
from diffusion_jax.runtime.files import lock_workdir, make_workdir, replace_text
from diffusion_jax.runtime.place import run_path


def write_run(
    workdir: str | os.PathLike,
    config: Mapping[str, Any],
    params: Any,
    image_shape: tuple[int, int, int],
    imported_from: str,
) -> None:
    """Makes the directory of a run from imported weights. `dj.load` reads it; `dj.train` refuses it.

    `params`, float32, become the averaged weights of step 0. Raises ConfigError, CheckpointError or OSError,
    each with one line; a directory that is not empty is refused.
    """
    num_classes = config["model"].get("num_classes", 0)
    experiment = Experiment.from_config(config, image_shape, num_classes)
    directory = run_path("workdir", workdir)
    if directory.is_dir() and any(directory.iterdir()):
        raise ConfigError(f"workdir {directory} holds files already; use a new directory")
    make_workdir(directory)
    with lock_workdir(directory), Checkpoints(directory / "checkpoints") as checkpoints:
        description = describe_run(experiment.config, None, image_shape, num_classes, ())
        checkpoints.save(0, {"ema_params": params}, description)
    config_json = {"config": experiment.config, "data": None, "imported_from": imported_from}
    replace_text(directory / "config.json", json.dumps(config_json, indent=2) + "\n")
