"""Which experiment a directory holds, and what a resumed run may change of it."""

import json
from pathlib import Path
from typing import Any

from diffusion_jax.config.components import ConfigError
from diffusion_jax.config.defaults import with_defaults
from diffusion_jax.config.experiment import Experiment
from diffusion_jax.data.sources import Source
from diffusion_jax.runtime.files import replace_text

# Fields that a resumed run may have otherwise: how long it runs and what it shows, not what its steps do.
_MAY_CHANGE = (
    "train.steps",
    "train.log_every",
    "train.eval_every",
    "train.sample_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "data.data_dir",
    # Where the pictures lie; that they are the same is seen by the data fingerprint.
    "data.path",
    "data.csv",
    "data.cache_dir",
    "sampler",
    "mesh",
)


def write_config(folder: Path, experiment: Experiment, training: Source) -> None:
    """Writes config.json; refuses a folder that holds another experiment, or this one further on."""
    mine = {"config": experiment.config, "data": training.fingerprint}
    path = folder / "config.json"
    saved = [int(p.name) for p in (folder / "checkpoints").glob("*") if p.name.isdigit()]
    if saved and path.exists():
        check_same_experiment(path, mine)
    elif saved:
        raise ConfigError(
            f"workdir {folder} holds checkpoints but no config.json; put it back, or name another workdir"
        )
    if max(saved, default=0) > experiment.plan.steps:
        raise ConfigError(
            f"config.train.steps = {experiment.plan.steps}: {folder} is at step {max(saved)} already; "
            "give at least that, or name another workdir"
        )
    replace_text(path, json.dumps(mine, indent=2) + "\n")


def check_same_experiment(path: Path, mine: dict[str, Any]) -> None:
    try:
        theirs = json.loads(path.read_text())
        before = flatten({"config": with_defaults(theirs["config"]), "data fingerprint": theirs["data"]})
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); name another workdir") from error
    now = flatten({"config": with_defaults(mine["config"]), "data fingerprint": mine["data"]})
    for field in sorted(before.keys() | now.keys()):
        free = any(f"{field}.".startswith(f"config.{name}.") for name in _MAY_CHANGE)
        if before.get(field) != now.get(field) and not free:
            raise ConfigError(
                f"{field} = {now.get(field)!r}: {path.parent} holds a run with "
                f"{before.get(field)!r}; set it back, or name another workdir"
            )


def flatten(tree: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {path: tree}
    parts = [flatten(value, f"{path}.{key}" if path else key) for key, value in tree.items()]
    return {key: value for part in parts for key, value in part.items()}
