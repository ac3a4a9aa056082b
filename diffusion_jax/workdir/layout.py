"""The files of a run's directory, and the training state as the items of a checkpoint."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any

import jax

from diffusion_jax.config.components import ConfigError
from diffusion_jax.config.experiment import Experiment
from diffusion_jax.data.sources import Dataset, Folder
from diffusion_jax.runtime.files import lock_workdir, make_workdir
from diffusion_jax.runtime.mesh import state_sharding
from diffusion_jax.runtime.place import Place, is_remote
from diffusion_jax.runtime.processes import is_owner, synchronize
from diffusion_jax.training.state import TrainState

__all__ = [
    "abstract_state",
    "check_not_imported",
    "check_outside_data",
    "checkpoint_items",
    "init_state",
    "own_workdir",
]


# Fields of the state that older checkpoints do not have.
_OPTIONAL = ("memory", "recent")


def checkpoint_items(state: TrainState) -> dict[str, Any]:
    """The state as the items of a checkpoint. The EMA weights can be read without the rest.

    A field without arrays, such as the memory of most losses, is omitted, so such checkpoints keep the older layout.
    """
    rest = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    rest = {name: value for name, value in rest.items() if jax.tree.leaves(value) or name not in _OPTIONAL}
    return {"ema_params": rest.pop("ema_params"), "rest": rest}


def init_state(key: jax.Array, experiment: Experiment, shardings: Any = None) -> TrainState:
    """The training state before the first step."""
    network = experiment.network
    return TrainState.create(
        key,
        network.model,
        experiment.tx,
        network.image_shape,
        shardings,
        experiment.loss,
        skip_spikes=experiment.plan.skip_spikes > 0,
    )


def abstract_state(experiment: Experiment) -> TrainState:
    """Shapes, dtypes and shardings of the training state, without computing it."""
    abstract = jax.eval_shape(lambda key: init_state(key, experiment), jax.random.key(0))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        state_sharding(experiment.mesh, abstract),
    )


@contextlib.contextmanager
def own_workdir(workdir: Place) -> Iterator[Callable[[], None]]:
    """Holds the lock of a run's directory, which is made if need be. Among several processes, process 0 holds it.

    Yields a function that raises OSError if the lock is lost, which can happen in a bucket.
    """
    with contextlib.ExitStack() as stack:
        check: Callable[[], None] = lambda: None  # noqa: E731
        if is_owner():
            make_workdir(workdir)
            check = stack.enter_context(lock_workdir(workdir))
        synchronize("the directory is locked")
        yield check


def check_outside_data(workdir: Place, dataset: Dataset) -> None:
    """Raises ConfigError if the run's samples would become training images of the next start."""
    if is_remote(workdir):
        return
    if isinstance(dataset, Folder) and workdir.resolve().is_relative_to(dataset.root):
        raise ConfigError(
            f"workdir {workdir} is inside the directory of the training images, {dataset.root}; use another directory"
        )


def check_not_imported(workdir: Place) -> None:
    """Raises ConfigError if the directory holds imported weights."""
    try:
        origin = json.loads((workdir / "config.json").read_text())["imported_from"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return  # no run yet, or a training run, or damaged, which is reported later
    raise ConfigError(
        f"workdir {workdir} holds weights imported from {origin}, without an optimizer state to resume from; "
        "use another directory"
    )
