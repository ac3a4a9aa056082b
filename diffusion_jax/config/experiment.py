"""From a config to an experiment: all of its objects, checked before anything is compiled."""

import dataclasses
import functools
import json
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import optax
from jax.sharding import Mesh

from diffusion_jax.config.compatibility import Parts, check_compatibility
from diffusion_jax.config.components import ConfigError, build, build_section, check_names, construct
from diffusion_jax.config.optimizer import build_optimizer
from diffusion_jax.config.sampler import build_sampling
from diffusion_jax.config.sections import COMPONENTS, SECTIONS, SETTINGS
from diffusion_jax.data import sources
from diffusion_jax.run import Network, Sampling
from diffusion_jax.runtime.mesh import make_mesh
from diffusion_jax.training import losses
from diffusion_jax.training.batch import check_channels_last
from diffusion_jax.training.plan import Plan
from diffusion_jax.validation import describe

__all__ = ["Experiment", "as_plain", "build_dataset", "check_sections"]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The objects that a config describes. `config` is the config as plain JSON values."""

    config: dict[str, Any]
    dataset: sources.Dataset
    network: Network
    loss: losses.Loss
    tx: optax.GradientTransformation
    lr_schedule: optax.Schedule
    sampling: Sampling
    plan: Plan
    mesh: Mesh

    @classmethod
    def from_config(
        cls,
        config: ml_collections.ConfigDict | Mapping[str, Any],
        image_shape: tuple[int, int, int],
        num_classes: int,
        allow_code: bool = True,
        largest: float = 1.0,
        devices: list[jax.Device] | None = None,
    ) -> "Experiment":
        """Builds every object, for images of `image_shape` up to `largest` and `num_classes` (0: no labels), on
        `devices`, by default all.

        Raises ConfigError that names the field. Without `allow_code`, a "pkg.module:Name" is refused.
        """
        plain = as_plain(config)
        check_sections(plain)
        plan = build_section(SETTINGS["train"], plain["train"], "train")
        shape = build_section(SETTINGS["mesh"], plain.get("mesh", {}), "mesh")
        mesh = construct(make_mesh, "mesh", shape=shape, devices=devices)
        component = functools.partial(_build_component, plain, allow_code=allow_code)
        schedule, prediction = component("schedule"), component("prediction")
        loss = component("loss", schedule=schedule, prediction=prediction)
        model = component("model")
        lr_schedule, tx = build_optimizer(plain["optimizer"], allow_code)
        sampling = build_sampling(plain["sampler"], allow_code)
        construct(check_channels_last, "data", name="images", shape=image_shape)
        parts = Parts(model, loss, sampling, image_shape, num_classes, largest)
        check_compatibility(parts)
        if hasattr(model, "check"):
            construct(model.check, "model", image_shape=image_shape)
        network = Network(model, schedule, prediction, image_shape, model.num_classes, parts.trains_unlabelled)
        construct(sampling.grid, "sampler", schedule=schedule, steps=sampling.steps)
        construct(network.adapt_sampler, "sampler", sampler=sampling.sampler)
        dataset = build_dataset(plain, allow_code)
        return cls(plain, dataset, network, loss, tx, lr_schedule, sampling, plan, mesh)


def as_plain(config: ml_collections.ConfigDict | Mapping[str, Any]) -> dict[str, Any]:
    """A config as plain JSON values. Raises ConfigError if it holds anything else.

    >>> as_plain({"model": {"name": "UNet", "channels": (64, 128)}})
    {'model': {'name': 'UNet', 'channels': [64, 128]}}
    """
    if not isinstance(config, ml_collections.ConfigDict | Mapping):
        raise ConfigError(f"config = {describe(config)}: must be a config, such as dj.configs.digits()")
    values = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else dict(config)
    try:
        return json.loads(json.dumps(values))
    except TypeError as error:
        raise ConfigError(f'config: {error}; name components as dict(name="...") and use plain values') from error


def check_sections(plain: Mapping[str, Any]) -> None:
    """Raises ConfigError unless exactly the known sections are there; `mesh` may be missing."""
    check_names(plain, SECTIONS, "")
    for name in SECTIONS:
        if name not in plain and name != "mesh":
            raise ConfigError(f"config.{name}: the section is missing")


def build_dataset(plain: Mapping[str, Any], allow_code: bool = True) -> sources.Dataset:
    """The data set of a config, not opened yet.

    >>> build_dataset({"data": {"name": "Digits"}})
    Digits(flip=False)
    """
    return _build_component(plain, "data", allow_code)


def _build_component(plain: Mapping[str, Any], section: str, allow_code: bool, **kwargs: Any) -> Any:
    return build(plain[section], COMPONENTS[section], section, allow_code, **kwargs)
