"""From a config to objects, all of them checked before anything is compiled."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import ml_collections
import optax
from jax.sharding import Mesh

from diffusion_jax import models
from diffusion_jax.config.components import (
    ConfigError,
    Namespace,
    build,
    check_names,
    check_spec,
    check_type,
    construct,
    section,
)
from diffusion_jax.data import sources
from diffusion_jax.process import predictions, schedules
from diffusion_jax.run import Guidance, Network, Sampling
from diffusion_jax.runtime.mesh import MeshShape, make_mesh
from diffusion_jax.sampling import grids, samplers
from diffusion_jax.training import losses
from diffusion_jax.training.loop import Plan

SECTIONS = (
    "data",
    "model",
    "schedule",
    "prediction",
    "loss",
    "optimizer",
    "sampler",
    "train",
    "mesh",
)

_SAMPLERS = Namespace(samplers, samplers.Sampler)
_GRIDS = Namespace(grids, grids.Grid)


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
    ) -> "Experiment":
        """Builds everything for pictures of `image_shape` and `num_classes` (0: no labels).

        Raises ConfigError naming the field. Without `allow_code` a "pkg.module:Name" is refused.
        """
        plain = as_plain(config)
        check_sections(plain)

        def part(name: str, module: Any, kind: type | None, **given: Any) -> Any:
            return build(plain[name], Namespace(module, kind), name, allow_code, **given)

        plan = section(Plan, plain["train"], "train")
        mesh = construct(make_mesh, "mesh", shape=section(MeshShape, plain.get("mesh", {}), "mesh"))
        schedule = part("schedule", schedules, schedules.Schedule)
        prediction = part("prediction", predictions, predictions.Prediction)
        loss = part("loss", losses, losses.Loss, schedule=schedule, prediction=prediction)
        model = part("model", models, None)
        _check_model(model, plain["model"], image_shape, num_classes)
        _check_options(model, loss)
        lr_schedule, tx = _optimizer(plain["optimizer"], allow_code)
        sampling = _sampling(plain["sampler"], allow_code)
        construct(sampling.grid, "sampler", schedule=schedule, steps=sampling.steps)
        network = Network(
            model,
            schedule,
            prediction,
            image_shape,
            model.num_classes,
            unlabelled=getattr(loss, "label_drop", 1.0) > 0,
        )
        _check_guidance(sampling, network)
        construct(network.adapt_sampler, "sampler", sampler=sampling.sampler)
        return cls(
            config=plain,
            dataset=build_dataset(plain, allow_code),
            network=network,
            loss=loss,
            tx=tx,
            lr_schedule=lr_schedule,
            sampling=sampling,
            plan=plan,
            mesh=mesh,
        )


def as_plain(config: ml_collections.ConfigDict | Mapping[str, Any]) -> dict[str, Any]:
    """A config as plain JSON values. Raises ConfigError where it holds anything else."""
    values = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else dict(config)
    try:
        return json.loads(json.dumps(values))
    except TypeError as error:
        raise ConfigError(f'config: {error}; name components as dict(name="...") and give plain values') from error


def check_sections(plain: Mapping[str, Any]) -> None:
    check_names(plain, list(SECTIONS), "")
    for name in SECTIONS:
        if name not in plain and name != "mesh":
            raise ConfigError(f"config.{name}: the section is missing")


def build_dataset(plain: Mapping[str, Any], allow_code: bool = True) -> sources.Dataset:
    return build(plain["data"], Namespace(sources, sources.Dataset), "data", allow_code)


def _check_guidance(sampling: Sampling, network: Network) -> None:
    """Guidance needs a network with classes that has also been trained without them."""
    where = f"config.sampler.guidance = {sampling.guidance.scale}"
    if sampling.guidance.scale != 1.0 and not network.num_classes:
        raise ConfigError(f"{where}: the model has no classes; use 1.0")
    if sampling.guidance.scale != 1.0 and not network.unlabelled:
        raise ConfigError(f"{where}: needs loss.label_drop above 0, or no label is ever left out; or use 1.0")


def _check_model(model: Any, spec: Mapping, image_shape: tuple[int, int, int], num_classes: int) -> None:
    if not hasattr(model, "num_classes"):
        raise ConfigError(
            f"config.model: {type(model).__name__} has no attribute num_classes; give it the number "
            "of classes that it takes, or 0"
        )
    if image_shape[2] not in (1, 3):
        raise ConfigError(f"config.data: pictures have {image_shape[2]} channels; need 1 or 3")
    if hasattr(model, "check"):
        construct(model.check, "model", image_shape=image_shape)
    wanted = model.num_classes
    if wanted and wanted != num_classes:
        raise ConfigError(
            f"config.model.num_classes = {wanted}: the data have {num_classes}; use that, or 0 for a "
            "network without classes"
        )


def _check_options(model: Any, loss: losses.Loss) -> None:
    """What a network makes or is shown beside the prediction is trained by the loss, and nothing else is.

    A network of the user's that does not say whether it learns a variance is taken at the loss's word.
    """
    if not isinstance(loss, losses.Noised):
        return
    name, trained = type(loss).__name__, loss.learns_variance
    if getattr(model, "learn_variance", trained) != trained:
        remedy = "set it to True" if trained else "use HybridLoss, or set it to False"
        does = "trains" if trained else "does not train"
        raise ConfigError(f"config.model.learn_variance = {not trained}: {name} {does} a variance; {remedy}")
    shown = loss.self_condition > 0
    if shown and not hasattr(model, "self_condition"):
        raise ConfigError(
            f"config.model: {type(model).__name__} has no attribute self_condition; give it one, True, so "
            "that sampling shows it its guesses too, or set config.loss.self_condition to 0"
        )
    if getattr(model, "self_condition", shown) != shown:
        remedy = "set it to True" if shown else "set that to 0.5"
        raise ConfigError(
            f"config.model.self_condition = {not shown}: config.loss.self_condition is "
            f"{loss.self_condition:g}; {remedy}"
        )


def _optimizer(spec: Mapping[str, Any], allow_code: bool) -> tuple[optax.Schedule, optax.GradientTransformation]:
    """The learning rate by update, and the optimizer, whose gradient is clipped to `clip_norm` (0: not).

    dict(name="adamw", lr_schedule=2e-4, clip_norm=1.0, ...): the name and the other fields are optax's;
    `lr_schedule` is a number or one of optax's schedules, dict(name="cosine_decay_schedule", ...).
    """
    check_spec(spec, "optimizer")
    rest = {key: value for key, value in spec.items() if key not in ("lr_schedule", "clip_norm")}
    clip_norm = check_type(spec.get("clip_norm", 0.0), float, "optimizer.clip_norm")
    rate = spec.get("lr_schedule")
    namespace = Namespace(optax)
    if isinstance(rate, Mapping):
        lr_schedule = build(rate, namespace, "optimizer.lr_schedule", allow_code)
    else:
        constant = check_type(rate, float, "optimizer.lr_schedule")
        lr_schedule = optax.constant_schedule(constant)
        if constant <= 0:
            raise ConfigError(f"config.optimizer.lr_schedule = {constant}: must be positive")
    if clip_norm < 0:
        raise ConfigError(f"config.optimizer.clip_norm = {clip_norm}: must be 0 or positive")
    tx = build(rest, namespace, "optimizer", allow_code, learning_rate=lr_schedule)
    if not isinstance(tx, optax.GradientTransformation):
        raise ConfigError(f'config.optimizer.name = "{rest["name"]}": is no optimizer of optax')
    return lr_schedule, optax.chain(optax.clip_by_global_norm(clip_norm), tx) if clip_norm else tx


def _sampling(spec: Mapping[str, Any], allow_code: bool) -> Sampling:
    """dict(name="DDIM", eta=0.0, steps=50, guidance=1.0, ...): the sampler and the settings of `Sampling`.

    guidance, guidance_interval and guidance_rescale are the fields of `Guidance`.
    """
    check_spec(spec, "sampler")
    names = [field.name for field in dataclasses.fields(Sampling) if field.name != "sampler"]
    settings = {key: value for key, value in spec.items() if key in names}
    guidance = {key: value for key, value in spec.items() if key in _GUIDANCE}
    rest = {key: value for key, value in spec.items() if key not in settings | guidance}
    settings["sampler"] = build(rest, _SAMPLERS, "sampler", allow_code)
    if "grid" in settings:
        settings["grid"] = build(settings["grid"], _GRIDS, "sampler.grid", allow_code)
    fields = {
        _GUIDANCE[key][0]: check_type(value, _GUIDANCE[key][1], f"sampler.{key}") for key, value in guidance.items()
    }
    settings["guidance"] = construct(Guidance, "sampler", **({"scale": 1.0} | fields))
    return section(Sampling, settings, "sampler")


# Name in a config -> field of `Guidance` and its type.
_GUIDANCE: dict[str, tuple[str, Any]] = {
    "guidance": ("scale", float),
    "guidance_interval": ("interval", tuple[float, ...]),
    "guidance_rescale": ("rescale", float),
}
