"""Loads the network of a training run, and exports it as one file."""

import os
from pathlib import Path
from typing import Any

from diffusion_jax.config.components import ConfigError
from diffusion_jax.config.description import check_description, describe_run
from diffusion_jax.config.experiment import Experiment
from diffusion_jax.run import Run
from diffusion_jax.runtime.checkpoint import Checkpoints
from diffusion_jax.runtime.errors import CheckpointError
from diffusion_jax.runtime.mesh import make_mesh
from diffusion_jax.runtime.place import Place, run_path
from diffusion_jax.runtime.weights import Weights, name_params, read_weights, write_weights
from diffusion_jax.validation import describe
from diffusion_jax.workdir.initial import compare_weights, fill_params
from diffusion_jax.workdir.layout import abstract_state

__all__ = ["build_run", "export", "find_weights", "load", "pretrained", "pretrained_names"]

_PRETRAINED = "pretrained:"


def load(workdir: str | os.PathLike, *, allow_code: bool = False) -> Run:
    """Loads the network of a training run, with the EMA weights of its newest sound checkpoint.

    `workdir` is a directory of this machine or gs://bucket/run, or a .safetensors file that `dj.export` has written.
    Everything is read from the checkpoint itself. The devices need not be the same as in training. A component of the
    user's own ("pkg.module:Name") is imported only with `allow_code`. Raises CheckpointError if there is no sound
    checkpoint, and ConfigError if its config cannot be used.

    >>> run = dj.load("runs/digits")  # doctest: +SKIP
    >>> dj.load("nowhere")
    Traceback (most recent call last):
    diffusion_jax.runtime.errors.CheckpointError: no checkpoint in nowhere; train first, or use another directory
    """
    place = _find_source(workdir)
    if _is_file(place):
        return _load_exported(Path(place), allow_code)
    with Checkpoints(place, read_only=True) as checkpoints:
        description = check_description(checkpoints.describe())
        experiment = _build_experiment(description, allow_code)
        target = {"ema_params": abstract_state(experiment).ema_params}
        step, restored, description = checkpoints.restore(target)
        check_description(description)
    return build_run(experiment, restored["ema_params"], description["class_names"], description["config"], step)


def pretrained(name: str) -> Run:
    """Loads a network that comes with the library, "digits" or "mnist". Their figures are in docs/pretrained.md.

    Raises ConfigError for another name.

    >>> run = dj.pretrained("digits")
    >>> run.network.image_shape, run.network.num_classes
    ((8, 8, 1), 10)
    >>> run.sample(jax.random.key(0), 2, labels=[3, 3], steps=2).shape
    (2, 8, 8, 1)
    """
    return load(f"{_PRETRAINED}{name}")


def pretrained_names() -> list[str]:
    """The names that `pretrained` takes.

    >>> "digits" in pretrained_names()
    True
    """
    return sorted(path.stem for path in _shipped_weights().glob("*.safetensors"))


def export(run: Run, path: str | os.PathLike) -> None:
    """Writes a run's network, the EMA weights and the config, as one .safetensors file, for `dj.load`.

    The names of the arrays are those of the parameters, such as "params/Conv_0/kernel"; other libraries read them too.
    Raises ValueError for another ending of `path`, and for a run without a config, and OSError if it cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     dj.export(dj.pretrained("digits"), f"{directory}/mine.safetensors")
    ...     dj.load(f"{directory}/mine.safetensors").network.num_classes
    10
    """
    if not isinstance(run, Run):
        raise ValueError(f"run = {describe(run)}: must be a run, such as dj.load(...)")
    if not run.config:
        raise ValueError("run.config is empty: only a run of dj.load or dj.train can be exported")
    network = run.network
    names = run.class_names if network.num_classes else ()  # a network may leave the classes of its data out
    description = describe_run(run.config, None, network.image_shape, network.num_classes, names)
    write_weights(Path(path), name_params(run.params), description | {"step": run.step})


def find_weights(name: str, place: str | os.PathLike) -> Weights:
    """The EMA weights of a run, an exported file or "pretrained:NAME", by name, whatever their network is.

    `name` is the field that messages name.
    """
    try:
        found = _find_source(place)
        if _is_file(found):
            return read_weights(Path(found))[0]
    except (CheckpointError, ConfigError, OSError) as error:
        raise ConfigError(f'{name} = "{place}": {error}') from error
    with Checkpoints(found, read_only=True) as checkpoints:
        return checkpoints.read_weights("ema_params", make_mesh())


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


def _find_source(place: str | os.PathLike) -> Place:
    """The file or the directory of checkpoints that `place` names."""
    text = os.fspath(place) if isinstance(place, str | os.PathLike) else ""
    if text.startswith(_PRETRAINED):
        return _find_pretrained(text.removeprefix(_PRETRAINED))
    path = run_path("workdir", place)
    if path.suffix == ".safetensors" and not path.is_dir():
        if not path.is_file():
            raise CheckpointError(f"there is no file {place}; export a run first, or use another name")
        return path
    directory = path / "checkpoints"
    if not directory.is_dir():
        raise CheckpointError(f"no checkpoint in {place}; train first, or use another directory")
    return directory


def _find_pretrained(name: str) -> Path:
    if name not in pretrained_names():
        names = ", ".join(f'"{name}"' for name in pretrained_names())
        raise ConfigError(f'pretrained = "{name}": must be one of {names}')
    return _shipped_weights() / f"{name}.safetensors"


def _shipped_weights() -> Path:
    return Path(__file__).parents[1] / "weights"


def _is_file(place: Place) -> bool:
    return place.suffix == ".safetensors"


def _load_exported(path: Path, allow_code: bool) -> Run:
    weights, description = read_weights(path)
    check_description(description)
    experiment = _build_experiment(description, allow_code)
    target = abstract_state(experiment).ema_params
    if faults := compare_weights(weights, target):
        raise CheckpointError(
            f"{path} does not fit its config: {next(iter(faults.values()))}; use the version that wrote it"
        )
    step = description.get("step", 0)
    return build_run(experiment, fill_params(weights, target), description["class_names"], description["config"], step)


def _build_experiment(description: dict[str, Any], allow_code: bool) -> Experiment:
    """The experiment of a description, on all devices that are here rather than those of the training."""
    config = description["config"] | {"mesh": {}}
    image_shape = tuple(description["image_shape"])
    return Experiment.from_config(config, image_shape, description["num_classes"], allow_code)
