"""The `optimizer` section of a config: one of optax's optimizers, its learning rate and gradient clipping."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import optax

from diffusion_jax.config.components import ConfigError, argument_types, build, build_section, get_name
from diffusion_jax.config.sections import COMPONENTS
from diffusion_jax.validation import Checked, as_number, number

__all__ = ["OptimizerSettings", "build_optimizer"]

_OPTAX = COMPONENTS["optimizer"]


def _as_schedule(name: str, value: Any) -> optax.Schedule:
    return value if callable(value) else optax.constant_schedule(as_number(name, value, "(0, inf)"))


@dataclasses.dataclass(frozen=True)
class OptimizerSettings(Checked):
    """The fields of the section that are not arguments of the optimizer itself.

    Attributes:
      lr_schedule: learning rate, a number > 0 or a function of the number of updates so far.
      clip_norm: largest global norm of the gradient, which is scaled down to it; 0 turns clipping off.

    >>> OptimizerSettings(lr_schedule=2e-4).lr_schedule(100)
    0.0002
    """

    lr_schedule: Any = dataclasses.field(metadata={"check": _as_schedule})
    clip_norm: float = dataclasses.field(default=0.0, metadata=number("[0, inf)"))


_OWN_FIELDS = [field.name for field in dataclasses.fields(OptimizerSettings)]


def build_optimizer(spec: Any, allow_code: bool) -> tuple[optax.Schedule, optax.GradientTransformation]:
    """The learning rate by update, and the optimizer with gradient clipping before it.

    dict(name="adamw", lr_schedule=2e-4, clip_norm=1.0, ...): the name and the other fields are optax's;
    `lr_schedule` is a number or one of optax's schedules, dict(name="cosine_decay_schedule", ...).

    >>> lr_schedule, tx = build_optimizer({"name": "adamw", "lr_schedule": 2e-4}, allow_code=False)
    >>> lr_schedule(0)
    0.0002
    """
    name = get_name(spec, "optimizer")
    own = {key: value for key, value in spec.items() if key in _OWN_FIELDS}
    if isinstance(own.get("lr_schedule"), Mapping):
        own["lr_schedule"] = build(own["lr_schedule"], _OPTAX, "optimizer.lr_schedule", allow_code)
    settings = build_section(OptimizerSettings, own, "optimizer")
    refusal = f'config.optimizer.name = "{name}": must be an optimizer with a learning_rate, such as adamw'
    accepted = argument_types(_OPTAX.find(name, "optimizer", allow_code))
    if "learning_rate" not in accepted:
        raise ConfigError(refusal)
    tx = build(spec, _OPTAX, "optimizer", allow_code, _OWN_FIELDS, learning_rate=settings.lr_schedule)
    if not isinstance(tx, optax.GradientTransformation):
        raise ConfigError(refusal)
    clip_norm = settings.clip_norm
    return settings.lr_schedule, optax.chain(optax.clip_by_global_norm(clip_norm), tx) if clip_norm else tx
