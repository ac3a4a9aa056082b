"""The files of a run's directory, and the training state as the items of a checkpoint."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax

from diffusion_jax.config.components import ConfigError
from diffusion_jax.config.experiment import Experiment
from diffusion_jax.data.sources import Dataset, Folder
from diffusion_jax.runtime.mesh import state_sharding
from diffusion_jax.training.state import TrainState


def checkpoint_items(state: TrainState) -> dict[str, Any]:
    """The state as the items of a checkpoint: the EMA weights can be read without the rest.

    A memory without leaves is left out: such a checkpoint is as it was before losses had any.
    """
    rest = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    if not jax.tree.leaves(state.memory):
        del rest["memory"]
    return {"ema_params": rest.pop("ema_params"), "rest": rest}


def abstract_state(experiment: Experiment) -> TrainState:
    """Shapes, dtypes and shardings of the training state, without computing it."""
    network = experiment.network
    abstract = jax.eval_shape(
        lambda key: TrainState.create(key, network.model, experiment.tx, network.image_shape, loss=experiment.loss),
        jax.random.key(0),
    )
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        state_sharding(experiment.mesh, abstract),
    )


def check_outside_data(folder: Path, dataset: Dataset) -> None:
    """A run draws pictures: in the folder of the data they would be data of the next start."""
    if isinstance(dataset, Folder) and folder.resolve().is_relative_to(dataset.root):
        raise ConfigError(f"workdir {folder} lies in the folder of the pictures, {dataset.root}; name another")


def check_not_imported(folder: Path) -> None:
    try:
        theirs = json.loads((folder / "config.json").read_text())["imported_from"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # no run yet, or one of ours, or damaged: told later
    raise ConfigError(
        f"workdir {folder} holds weights imported from {theirs}, without an optimizer's state to go on from; "
        "name another workdir"
    )
