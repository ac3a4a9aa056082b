"""Writes imported weights as a run's directory, so that `dj.load` and the commands take it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion_jax.config.components import ConfigError
from diffusion_jax.config.description import describe_run
from diffusion_jax.config.experiment import Experiment
from diffusion_jax.runtime.checkpoint import Checkpoints
from diffusion_jax.runtime.files import locked, make_writable, replace_text


def write_run(
    workdir: str | Path,
    config: Mapping[str, Any],
    params: Any,
    image_shape: tuple[int, int, int],
    imported_from: str,
) -> None:
    """Makes a run's folder of weights from elsewhere, so that `load` takes it; `train` refuses it.

    `params`, float32, are written as step 0 and stand for their own average. Raises ConfigError,
    CheckpointError or OSError, each with one line; a folder that holds anything is refused.
    """
    num_classes = config["model"].get("num_classes", 0)
    experiment = Experiment.from_config(config, image_shape, num_classes)
    folder = Path(workdir)
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"workdir {folder} holds files already; name a new folder")
    make_writable(folder)
    with locked(folder), Checkpoints(folder / "checkpoints") as checkpoints:
        about = describe_run(experiment.config, None, image_shape, num_classes, ())
        checkpoints.save(0, {"ema_params": params}, about)
    config_json = {"config": experiment.config, "data": None, "imported_from": imported_from}
    replace_text(folder / "config.json", json.dumps(config_json, indent=2) + "\n")
