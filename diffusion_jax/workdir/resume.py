"""Which experiment a directory holds, and which fields a resumed run may change."""

import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

from diffusion_jax.config.components import ConfigError
from diffusion_jax.config.defaults import with_defaults
from diffusion_jax.config.description import check_config, check_description
from diffusion_jax.config.experiment import Experiment
from diffusion_jax.data.sources import Source, UserData
from diffusion_jax.runtime.checkpoint import Checkpoints
from diffusion_jax.runtime.errors import first_line
from diffusion_jax.runtime.files import replace_text
from diffusion_jax.runtime.place import Place, complete_steps
from diffusion_jax.validation import describe

__all__ = [
    "MAY_CHANGE",
    "Change",
    "check_data_are_here",
    "classes_of_run",
    "compare_experiments",
    "find_changes",
    "flatten",
    "read_changes",
    "write_config",
]

log = logging.getLogger(__name__)

_DATA, _CHANGES = "data fingerprint", "changes"

# Fields that act before the first step only.
_FIRST = ("train.init_from", "train.init_partial")

# {"step": of the checkpoint that the run went on from, "field": path in the config, "before": value, "after": value}
Change = dict[str, Any]

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
    "train.steps_per_call",
    "train.data_on_device",
    # The same parameters; another way to compute with them.
    "model.remat",
    "model.attention_kernel",
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


def read_changes(workdir: Place) -> list[Change]:
    """What earlier resumptions of a run have changed, oldest first; [] if it holds no checkpoint."""
    if not complete_steps(workdir / "checkpoints"):
        return []
    return _read_config(workdir / "config.json", logging.DEBUG)[_CHANGES]


def check_data_are_here(workdir: Place) -> None:
    """Raises ConfigError if the run in `workdir` has data from Python, which no config can name."""
    if not complete_steps(workdir / "checkpoints"):
        return
    data = _read_config(workdir / "config.json", logging.DEBUG)["config"]["data"]
    if data["name"] == UserData.__name__:
        raise ConfigError(
            f"dataset = None: the run in {workdir} has data from Python; resume it from Python, with "
            "dj.train(config, workdir, dataset=...), or use another directory"
        )


def find_changes(workdir: Place, experiment: Experiment, training: Source, accept: Sequence[str] = ()) -> list[Change]:
    """The fields, of those in `accept`, that differ from the run in `workdir`, one dict each, without the step.

    Raises ConfigError if the directory holds another experiment, or more steps of this one.
    """
    check_accepted(experiment, accept)
    saved = complete_steps(workdir / "checkpoints")
    if not saved:
        return []
    newest = max(saved)
    if newest > experiment.plan.steps:
        raise ConfigError(
            f"config.train.steps = {experiment.plan.steps}: {workdir} is at step {newest} already; "
            "use at least that, or another directory"
        )
    current = {"config": experiment.config, "data": training.fingerprint}
    return compare_experiments(workdir / "config.json", current, training.has_fingerprint, accept)


def check_accepted(experiment: Experiment, accept: Sequence[str]) -> None:
    """Raises ConfigError for a name in `accept` that is no field of the config."""
    fields = flatten(_label({"config": experiment.config, "data": ""}))
    known = {_accepted_name(name) for name in fields if name != _CHANGES}
    if isinstance(accept, str) or not isinstance(accept, Sequence):
        raise ConfigError(f'accept = {describe(accept)}: must be a list of fields, such as ["train.batch_size"]')
    for name in accept:
        if not any(f"{field}.".startswith(f"{name}.") for field in known):
            raise ConfigError(f'accept: there is no field "{name}"; name fields such as train.batch_size')


def write_config(workdir: Place, experiment: Experiment, training: Source, changes: list[Change]) -> None:
    """Writes config.json."""
    content = {"config": experiment.config, "data": training.fingerprint} | ({"changes": changes} if changes else {})
    replace_text(workdir / "config.json", json.dumps(content, indent=2) + "\n")


def compare_experiments(
    path: Place,
    current: dict[str, Any],
    is_same_data: Callable[[Any], bool] = lambda fingerprint: False,
    accept: Sequence[str] = (),
) -> list[Change]:
    """The fields in `accept` that differ between the file `path` and `current`.

    Raises ConfigError if another field that a resumed run must keep differs. `is_same_data` tells whether another
    fingerprint is that of the same data, from an earlier version.
    """
    before, now = flatten(_read_config(path)), flatten(_label(current))
    if is_same_data(before[_DATA]):
        now[_DATA] = before[_DATA]
    changes = []
    for field in sorted(before.keys() | now.keys(), key=lambda name: (not name.endswith(".name"), name)):
        if field == _CHANGES or before.get(field) == now.get(field) or _is_below(field, MAY_CHANGE):
            continue
        if not _is_below(field, accept) or _is_below(field, _FIRST):
            raise ConfigError(
                f"{field} = {now.get(field)!r}: {path.parent} holds a run with "
                f"{before.get(field)!r}; {_find_remedy(field)}"
            )
        changes.append({"field": field.removeprefix("config."), "before": before.get(field), "after": now.get(field)})
    return changes


def _find_remedy(field: str) -> str:
    if _is_below(field, _FIRST):
        return "it counts for a new run only; set it back, or use another directory"
    first = "the data are others; restore them" if field == _DATA else "set it back"
    name = _accepted_name(field)
    return f'{first}, use another directory, or go on with it by --accept {name}, in Python accept=["{name}"]'


def _is_below(field: str, names: Sequence[str]) -> bool:
    return any(f"{_accepted_name(field)}.".startswith(f"{name}.") for name in names)


def _accepted_name(field: str) -> str:
    """The name that `accept` has for a field; the data's fingerprint belongs to the section `data`."""
    return "data" if field == _DATA else field.removeprefix("config.")


def _read_config(path: Place, level: int = logging.WARNING) -> dict[str, Any]:
    """The config, the fingerprint of the data and the changes of a run with checkpoints, which hold them as well."""
    try:
        return _label(json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError) as error:  # lost, or damaged
        log.log(level, "%s cannot be read (%s); it is rebuilt from the newest checkpoint", path, first_line(error))
    with Checkpoints(path.parent / "checkpoints", read_only=True) as checkpoints:
        return _label(check_description(checkpoints.describe()))


def _label(content: dict[str, Any]) -> dict[str, Any]:
    check_config(content["config"])
    changes = content.get("changes") or []
    return {"config": with_defaults(content["config"]), _DATA: content["data"], _CHANGES: changes}


def flatten(tree: Any, path: str = "") -> dict[str, Any]:
    """The leaves of nested dicts, by their path such as "config.train.steps"."""
    if not isinstance(tree, dict):
        return {path: tree}
    parts = [flatten(value, f"{path}.{key}" if path else key) for key, value in tree.items()]
    return {key: value for part in parts for key, value in part.items()}
