"""Which experiment a directory holds, and which fields a resumed run may change."""

import json
import logging
from collections.abc import Callable
from typing import Any

from diffusion_jax.config.components import ConfigError
from diffusion_jax.config.defaults import with_defaults
from diffusion_jax.config.description import check_config, check_description
from diffusion_jax.config.experiment import Experiment
from diffusion_jax.data.sources import Source
from diffusion_jax.runtime.checkpoint import Checkpoints
from diffusion_jax.runtime.errors import first_line
from diffusion_jax.runtime.files import replace_text
from diffusion_jax.runtime.place import Place, complete_steps

__all__ = ["MAY_CHANGE", "check_same_experiment", "classes_of_run", "flatten", "write_config"]

log = logging.getLogger(__name__)

_DATA = "data fingerprint"

# Fields that a resumed run may change: how long it runs, what it reports, how a step is spread over time and devices.
MAY_CHANGE = (
    "train.steps",
    "train.log_every",
    "train.eval_every",
    "train.sample_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.max_skipped",
    "train.stop_if_save_fails",
    # Except for rounding and the dropout masks, a step computes the same, so a smaller device needs no new run.
    "train.accumulate",
    "data.data_dir",
    # The place of the images; whether they are the same is checked with the data's fingerprint.
    "data.path",
    "data.csv",
    "data.cache_dir",
    "sampler",
    "mesh",
)


def classes_of_run(workdir: Place) -> int | None:
    """The number of classes of the network in `workdir`; None if it holds no checkpoint."""
    if not complete_steps(workdir / "checkpoints"):
        return None
    return _read_config(workdir / "config.json", logging.DEBUG)["config"]["model"].get("num_classes", 0)


def write_config(workdir: Place, experiment: Experiment, training: Source) -> None:
    """Writes config.json. Raises ConfigError if the directory holds another experiment, or more steps of this one."""
    current = {"config": experiment.config, "data": training.fingerprint}
    path = workdir / "config.json"
    saved = complete_steps(workdir / "checkpoints")
    if saved:
        check_same_experiment(path, current, training.has_fingerprint)
    if max(saved, default=0) > experiment.plan.steps:
        raise ConfigError(
            f"config.train.steps = {experiment.plan.steps}: {workdir} is at step {max(saved)} already; "
            "use at least that, or another directory"
        )
    replace_text(path, json.dumps(current, indent=2) + "\n")


def check_same_experiment(
    path: Place, current: dict[str, Any], is_same_data: Callable[[Any], bool] = lambda fingerprint: False
) -> None:
    """Raises ConfigError if a field that a resumed run must keep differs between `current` and the file `path`.

    `is_same_data` tells whether another fingerprint is that of the same data, from an earlier version.
    """
    before, now = flatten(_read_config(path)), flatten(_label(current))
    if is_same_data(before[_DATA]):
        now[_DATA] = before[_DATA]
    for field in sorted(before.keys() | now.keys(), key=lambda name: (not name.endswith(".name"), name)):
        may_change = any(f"{field}.".startswith(f"config.{name}.") for name in MAY_CHANGE)
        if before.get(field) != now.get(field) and not may_change:
            raise ConfigError(
                f"{field} = {now.get(field)!r}: {path.parent} holds a run with "
                f"{before.get(field)!r}; set it back, or use another directory"
            )


def _read_config(path: Place, level: int = logging.WARNING) -> dict[str, Any]:
    """The config and the fingerprint of the data of a run with checkpoints, which hold them as well."""
    try:
        return _label(json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError) as error:  # lost, or damaged
        log.log(level, "%s cannot be read (%s); it is rebuilt from the newest checkpoint", path, first_line(error))
    with Checkpoints(path.parent / "checkpoints", read_only=True) as checkpoints:
        return _label(check_description(checkpoints.describe()))


def _label(content: dict[str, Any]) -> dict[str, Any]:
    check_config(content["config"])
    return {"config": with_defaults(content["config"]), _DATA: content["data"]}


def flatten(tree: Any, path: str = "") -> dict[str, Any]:
    """The leaves of nested dicts, by their path such as "config.train.steps"."""
    if not isinstance(tree, dict):
        return {path: tree}
    parts = [flatten(value, f"{path}.{key}" if path else key) for key, value in tree.items()]
    return {key: value for part in parts for key, value in part.items()}
