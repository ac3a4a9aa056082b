"""A config with the defaults of its components filled in, so that two ways to write the same config compare equal."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from diffusion_jax.config.components import ConfigError, Namespace
from diffusion_jax.config.sections import COMPONENTS, GRIDS, SETTINGS
from diffusion_jax.run import Guidance, Sampling

__all__ = ["with_defaults"]

# Fields of a section that are not arguments of its component.
_SAMPLING = {name: value for name, value in vars(Sampling()).items() if name not in ("sampler", "guidance")}
_GUIDANCE = {"guidance": 1.0, "guidance_interval": Guidance(1.0).interval, "guidance_rescale": Guidance(1.0).rescale}
_OWN_FIELDS: dict[str, dict[str, Any]] = {"optimizer": {"clip_norm": 0.0}, "sampler": _SAMPLING | _GUIDANCE}


def with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config`, plain JSON values, with every missing field at its default.

    The user's own components ("pkg.module:Name") keep the fields that they have, because no code is imported.

    >>> with_defaults({"schedule": {"name": "LinearBeta", "steps": 500}, "mesh": {}})["schedule"]
    {'name': 'LinearBeta', 'steps': 500, 'start': 0.0001, 'end': 0.02}
    """
    filled: dict[str, Any] = {}
    for section, spec in {"mesh": {}, **config}.items():
        if section in SETTINGS:
            filled[section] = _fill(spec, _defaults(SETTINGS[section]), None)
        else:
            filled[section] = _fill_component(spec, COMPONENTS[section], _OWN_FIELDS.get(section, {}))
    return filled


def _fill_component(spec: Any, namespace: Namespace, own_fields: Mapping[str, Any]) -> Any:
    """The spec of a component with its defaults, and the specs inside it with theirs."""
    try:
        factory = namespace.find(spec["name"], "", allow_code=False)
    except ConfigError:  # the user's own, or from another version
        return dict(spec)
    return _fill(spec, {**_defaults(factory), **own_fields}, namespace.inside(Any))


def _fill(spec: Mapping[str, Any], defaults: Mapping[str, Any], inside: Any) -> dict[str, Any]:
    missing = {name: _plain_default(value) for name, value in defaults.items() if name not in spec}
    return {name: _fill_nested(name, value, inside) for name, value in {**spec, **missing}.items()}


def _fill_nested(name: str, value: Any, inside: Any) -> Any:
    if not isinstance(value, Mapping) or "name" not in value:
        return value
    return _fill_component(value, GRIDS if name == "grid" else inside, {})


def _defaults(factory: Any) -> dict[str, Any]:
    """Name -> default of each argument that has one; `parent` and `name` belong to Flax."""
    parameters = inspect.signature(factory).parameters
    return {
        name: parameter.default
        for name, parameter in parameters.items()
        if parameter.default is not parameter.empty and name not in ("parent", "name")
    }


def _plain_default(value: Any) -> Any:
    """A default in the form of a config: objects as dict(name=...), tuples as lists, functions by name."""
    if dataclasses.is_dataclass(value):
        fields = {field.name: _plain_default(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"name": type(value).__name__, **fields}
    if isinstance(value, list | tuple):
        return [_plain_default(item) for item in value]
    return value if isinstance(value, bool | int | float | str | None) else repr(getattr(value, "__name__", value))
