"""Loads the network of a training run."""

from pathlib import Path
from typing import Any

from diffusion_jax.config.experiment import Experiment
from diffusion_jax.run import Run
from diffusion_jax.runtime.checkpoint import CheckpointError, Checkpoints
from diffusion_jax.workdir.layout import abstract_state


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
        wanted = {"ema_params": abstract_state(experiment).ema_params}
        step, restored, about = checkpoints.restore(wanted)
    return build_run(experiment, restored["ema_params"], about["class_names"], about["config"], step)


def build_run(experiment: Experiment, params: Any, class_names: Any, config: dict[str, Any], step: int) -> Run:
    return Run(
        network=experiment.network,
        params=params,
        sampling=experiment.sampling,
        mesh=experiment.mesh,
        class_names=tuple(class_names),
        config=config,
        step=step,
    )
