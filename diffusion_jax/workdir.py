"""A run's folder: train into it, load from it.

config.json      the config, and what the data were
checkpoints/     the newest sound ones; see runtime/checkpoint.py
metrics.jsonl    the record of the training
events/          the same for TensorBoard
samples/         a grid of pictures at each sample point; samples.png is the last
"""

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from diffusion_jax.components import ConfigError, construct
from diffusion_jax.data.pipeline import Batches, in_order
from diffusion_jax.data.sources import Dataset, Folder, Source
from diffusion_jax.experiment import Experiment, as_plain, check_sections, open_dataset_section
from diffusion_jax.run import Run
from diffusion_jax.runtime import images
from diffusion_jax.runtime.checkpoint import CheckpointError, Checkpoints
from diffusion_jax.runtime.files import locked, make_writable, replace_text
from diffusion_jax.runtime.mesh import check_batch, put_batch, state_sharding
from diffusion_jax.runtime.writers import MetricsWriter
from diffusion_jax.training.evaluate import make_evaluate
from diffusion_jax.training.loop import Actions, fit
from diffusion_jax.training.state import TrainState
from diffusion_jax.training.step import make_train_step
from diffusion_jax.version import __version__

log = logging.getLogger(__name__)

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


def train(
    config: ml_collections.ConfigDict | Mapping[str, Any],
    workdir: str | Path,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Trains the experiment of `config` in `workdir`, from its newest sound checkpoint if there is one.

    Returns whether the run is complete; not so when `should_stop` ended it, with a checkpoint.
    Raises ConfigError, DataError, CheckpointError or OSError, each with one line that says what to do.
    """
    plain = as_plain(config)
    check_sections(plain)
    _check_not_imported(Path(workdir))
    dataset = open_dataset_section(plain)
    _check_beside_pictures(Path(workdir), dataset)
    training, held_out = dataset.open()
    experiment = Experiment.from_config(plain, training.image_shape, training.num_classes)
    plan = experiment.plan
    construct(
        check_batch,
        "train",
        mesh=experiment.mesh,
        batch_size=plan.batch_size,
        accumulate=plan.accumulate,
    )
    if plan.batch_size > len(training):
        raise ConfigError(
            f"config.train.batch_size = {plan.batch_size}: the data have only {len(training)} training "
            "pictures; use at most so many"
        )
    folder = Path(workdir)
    _make_writable(folder)
    with locked(folder):
        _prepare(folder, experiment, training)
        with Checkpoints(folder / "checkpoints", plan.keep_checkpoints) as checkpoints:
            return _Training(folder, experiment, training, held_out, checkpoints).run(should_stop)


def load(workdir: str | Path, *, allow_code: bool = False) -> Run:
    """The network of a training run, with the EMA weights of its newest sound checkpoint.

    Everything is read from the checkpoint itself. A component of the user's own ("pkg.module:Name") is
    imported only with `allow_code`. Raises CheckpointError where there is no sound checkpoint.
    """
    folder = Path(workdir) / "checkpoints"
    if not folder.is_dir():
        raise CheckpointError(f"no checkpoint in {workdir}; train first, or name another workdir")
    with Checkpoints(folder, read_only=True) as checkpoints:
        about = checkpoints.describe()
        config = about["config"] | {"mesh": {}}  # the devices here need not be those of the training
        shape, num_classes = tuple(about["image_shape"]), about["num_classes"]
        experiment = Experiment.from_config(config, shape, num_classes, allow_code)
        wanted = {"ema_params": _abstract_state(experiment).ema_params}
        step, restored, about = checkpoints.restore(wanted)
    return _run(experiment, restored["ema_params"], about["class_names"], about["config"], step)


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
    _make_writable(folder)
    with locked(folder), Checkpoints(folder / "checkpoints") as checkpoints:
        about = _about(experiment.config, None, image_shape, num_classes, ())
        checkpoints.save(0, {"ema_params": params}, about)
    config_json = {"config": experiment.config, "data": None, "imported_from": imported_from}
    replace_text(folder / "config.json", json.dumps(config_json, indent=2) + "\n")


def _run(experiment: Experiment, params: Any, class_names: Any, config: dict[str, Any], step: int) -> Run:
    return Run(
        network=experiment.network,
        params=params,
        sampling=experiment.sampling,
        mesh=experiment.mesh,
        class_names=tuple(class_names),
        config=config,
        step=step,
    )


@dataclasses.dataclass(frozen=True)
class _Training:
    """One call of `train`, with everything open."""

    folder: Path
    experiment: Experiment
    training: Source
    held_out: Source
    checkpoints: Checkpoints

    def run(self, should_stop: Callable[[], bool]) -> bool:
        experiment, plan = self.experiment, self.experiment.plan
        init_key, step_key, eval_key = jax.random.split(jax.random.key(plan.seed), 3)
        state, start = self._start(init_key)
        if start == plan.steps:
            log.info("step %d: complete, nothing is left to do", start)
            return True
        _say_what(experiment, state, self.training, self.held_out, start)
        step_fn = make_train_step(
            experiment.network.model,
            experiment.tx,
            experiment.loss,
            ema_decay=plan.ema_decay,
            accumulate=plan.accumulate,
            mesh=experiment.mesh,
            lr_schedule=experiment.lr_schedule,
        )
        evaluate = make_evaluate(experiment.network.model, experiment.loss, experiment.mesh)
        batches = Batches(
            self.training,
            plan.batch_size,
            seed=plan.seed,
            flip=experiment.dataset.flip,
            process=jax.process_index(),
            processes=jax.process_count(),
        )
        device_batches = (put_batch(experiment.mesh, b) for b in batches.iterate(start))
        with MetricsWriter(self.folder, start) as writer:
            actions = Actions(
                evaluate=lambda state: evaluate(
                    state.ema_params,
                    in_order(self.held_out, plan.batch_size, plan.eval_examples),
                    eval_key,
                ),
                draw_samples=lambda state, step: self._draw(state, step, writer),
                save=self._save,
                watch=self._watch,
                should_stop=should_stop,
            )
            state, step = fit(state, step_fn, device_batches, step_key, plan, writer, actions, start)
        self.checkpoints.report(wait=True)
        return step == plan.steps

    def _start(self, key: jax.Array) -> tuple[TrainState, int]:
        """The state of the newest sound checkpoint, or a new one."""
        experiment = self.experiment
        abstract = _abstract_state(experiment)
        if self.checkpoints.steps():
            step, items, _ = self.checkpoints.restore(_items(abstract))
            return TrainState(**items["rest"], ema_params=items["ema_params"]), step
        shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
        network = experiment.network
        arguments = (network.model, experiment.tx, network.image_shape, shardings, experiment.loss)
        state = TrainState.create(key, *arguments)
        return state, 0

    def _watch(self, wait: bool = False) -> None:
        """Tells of a background save that has failed. Training goes on: the next save may succeed."""
        try:
            self.checkpoints.report(wait)
        except CheckpointError as error:
            log.error("%s; training goes on and will save again", error)

    def _save(self, state: TrainState, step: int) -> None:
        self._watch(wait=True)
        data = self.training
        about = _about(
            self.experiment.config, data.fingerprint, data.image_shape, data.num_classes, data.class_names
        )
        self.checkpoints.save(step, _items(state), about)

    def _draw(self, state: TrainState, step: int, writer: MetricsWriter) -> None:
        """A grid from the EMA weights, of the same noise each time; a row for each class."""
        experiment = self.experiment
        classes = experiment.network.num_classes
        shown = min(classes, 10)
        labels = np.repeat(np.arange(shown), 10) if classes else None
        run = _run(experiment, state.ema_params, self.training.class_names, {}, step)
        key = jax.random.key(experiment.plan.seed)
        x = run.sample(key, 10 * shown if classes else 64, labels=labels)
        names = None if labels is None else [run.class_name(label) for label in labels]
        picture = images.grid(x, 10 if classes else 8, names)
        (self.folder / "samples").mkdir(exist_ok=True)
        picture.save(self.folder / "samples" / f"step_{step:07d}.png")
        picture.save(self.folder / "samples.png")
        writer.write_image(step, "samples", np.asarray(picture))


def _about(
    config: dict[str, Any],
    data: str | None,
    image_shape: tuple[int, int, int],
    num_classes: int,
    class_names: tuple[str, ...],
) -> dict[str, Any]:
    """What a checkpoint says of itself: all that `load` needs but the weights."""
    return {
        "config": config,
        "data": data,
        "image_shape": list(image_shape),
        "num_classes": num_classes,
        "class_names": list(class_names),
        "versions": {"diffusion_jax": __version__, "jax": jax.__version__},
    }


def _items(state: TrainState) -> dict[str, Any]:
    """The state as the items of a checkpoint: the EMA weights can be read without the rest.

    A memory without leaves is left out: such a checkpoint is as it was before losses had any.
    """
    rest = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    if not jax.tree.leaves(state.memory):
        del rest["memory"]
    return {"ema_params": rest.pop("ema_params"), "rest": rest}


def _abstract_state(experiment: Experiment) -> TrainState:
    """Shapes, dtypes and shardings of the training state, without computing it."""
    network = experiment.network
    abstract = jax.eval_shape(
        lambda key: TrainState.create(
            key, network.model, experiment.tx, network.image_shape, loss=experiment.loss
        ),
        jax.random.key(0),
    )
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        state_sharding(experiment.mesh, abstract),
    )


def _make_writable(folder: Path) -> None:
    try:
        make_writable(folder)
    except OSError as error:
        raise OSError(f"workdir {folder} cannot be written ({error}); name another") from error


def _check_beside_pictures(folder: Path, dataset: Dataset) -> None:
    """A run draws pictures: in the folder of the data they would be data of the next start."""
    if isinstance(dataset, Folder) and folder.resolve().is_relative_to(dataset.root):
        raise ConfigError(
            f"workdir {folder} lies in the folder of the pictures, {dataset.root}; name another"
        )


def _check_not_imported(folder: Path) -> None:
    try:
        theirs = json.loads((folder / "config.json").read_text())["imported_from"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # no run yet, or one of ours, or damaged: told later
    raise ConfigError(
        f"workdir {folder} holds weights imported from {theirs}, without an optimizer's state to go on from; "
        "name another workdir"
    )


def _prepare(folder: Path, experiment: Experiment, training: Source) -> None:
    """Writes config.json; refuses a folder that holds another experiment, or this one further on."""
    mine = {"config": experiment.config, "data": training.fingerprint}
    path = folder / "config.json"
    saved = [int(p.name) for p in (folder / "checkpoints").glob("*") if p.name.isdigit()]
    if saved and path.exists():
        _check_same_experiment(path, mine)
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


def _check_same_experiment(path: Path, mine: dict[str, Any]) -> None:
    try:
        theirs = json.loads(path.read_text())
        before = _flat({"config": theirs["config"], "data fingerprint": theirs["data"]})
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); name another workdir") from error
    now = _flat({"config": mine["config"], "data fingerprint": mine["data"]})
    for field in sorted(before.keys() | now.keys()):
        free = any(f"{field}.".startswith(f"config.{name}.") for name in _MAY_CHANGE)
        if before.get(field) != now.get(field) and not free:
            raise ConfigError(
                f"{field} = {now.get(field)!r}: {path.parent} holds a run with "
                f"{before.get(field)!r}; set it back, or name another workdir"
            )


def _flat(tree: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {path: tree}
    parts = [_flat(value, f"{path}.{key}" if path else key) for key, value in tree.items()]
    return {key: value for part in parts for key, value in part.items()}


def _say_what(
    experiment: Experiment, state: TrainState, training: Source, held_out: Source, start: int
) -> None:
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    devices = experiment.mesh.devices.flatten()
    log.info(
        "%s: %s parameters; %d pictures %s, %d held out; %d x %s",
        type(experiment.network.model).__name__,
        f"{parameters:,}".replace(",", " "),
        len(training),
        "x".join(map(str, training.image_shape)),
        len(held_out),
        len(devices),
        devices[0].device_kind,
    )
    if start:
        log.info("resuming after step %d", start)
