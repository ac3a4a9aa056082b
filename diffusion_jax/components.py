"""Components named in a config: dict(name="DDIM", eta=0.0) -> DDIM(eta=0.0).

A name is looked up among the public names of one module. "pkg.module:Name" reaches a user's own code,
but only where code may be imported: never for a config that was read out of a checkpoint.
"""

import dataclasses
import difflib
import importlib
import inspect
import types
import typing
from collections.abc import Mapping
from typing import Any


class ConfigError(ValueError):
    """A config that cannot be used; the message names the field, its value and the remedy."""


@dataclasses.dataclass(frozen=True)
class Namespace:
    """The public names of `module`: subclasses of `kind`, or anything callable where that is None."""

    module: types.ModuleType
    kind: type | None = None

    def names(self) -> list[str]:
        return sorted(name for name, value in vars(self.module).items() if self._has(name, value))

    def _has(self, name: str, value: Any) -> bool:
        home = str(getattr(value, "__module__", None))
        if name.startswith("_") or not callable(value) or not home.startswith(self.module.__name__):
            return False
        return self.kind is None or (
            isinstance(value, type) and issubclass(value, self.kind) and value is not self.kind
        )

    def find(self, name: str, path: str, allow_code: bool) -> Any:
        if ":" in name:
            return _import(name, path, allow_code)
        if name not in self.names():
            near = difflib.get_close_matches(name, self.names(), n=3, cutoff=0.4)
            known = " or ".join(near) if near else ", ".join(self.names())
            raise ConfigError(f'config.{path}.name = "{name}": there is none; did you mean {known}?')
        return getattr(self.module, name)


def build(
    spec: Any,
    namespace: Namespace,
    path: str,
    allow_code: bool = True,
    **given: Any,
) -> Any:
    """The object that `spec`, a dict with a "name", describes; `given` are arguments from elsewhere.

    Nested specs are built from the same module, lists become tuples, and every argument is checked
    against its annotation. Raises ConfigError, with the path of the field.
    """
    if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str):
        raise ConfigError(f'config.{path} = {spec!r}: must be dict(name="...", ...)')
    arguments = {key: value for key, value in spec.items() if key != "name"}
    factory = namespace.find(spec["name"], path, allow_code)
    accepted = _parameters(factory)
    check_names(arguments, [name for name in accepted if name not in given], path)
    for key, value in arguments.items():
        inside = f"{path}.{key}"
        if isinstance(value, Mapping):
            nested = dataclasses.replace(namespace, kind=_class_of(accepted[key]))
            arguments[key] = build(value, nested, inside, allow_code)
        else:
            arguments[key] = checked(value, accepted[key], inside)
    return construct(factory, path, **arguments, **given)


def section(cls: type, spec: Any, path: str) -> Any:
    """The dataclass `cls` from a section of a config without a name."""
    if not isinstance(spec, Mapping):
        raise ConfigError(f"config.{path} = {spec!r}: must be a dict")
    accepted = _parameters(cls)
    check_names(spec, list(accepted), path)
    arguments = {k: checked(v, accepted[k], f"{path}.{k}") for k, v in spec.items()}
    return construct(cls, path, **arguments)


def construct(factory: Any, path: str, /, **arguments: Any) -> Any:
    """factory(**arguments), with what it refuses told as a ConfigError."""
    try:
        inspect.signature(factory).bind(**arguments)
    except TypeError as error:
        raise ConfigError(f"config.{path}: {error}") from None
    try:
        return factory(**arguments)
    except ConfigError:
        raise
    except (ValueError, TypeError) as error:
        raise ConfigError(f"config.{path}: {error}") from error


def check_names(found: Mapping | list, accepted: list[str], path: str) -> None:
    """Raises ConfigError for a field that is not `accepted`, with the nearest ones that are."""
    for name in found:
        if name not in accepted:
            near = difflib.get_close_matches(name, accepted, n=3, cutoff=0.4)
            known = " or ".join(near) if near else ", ".join(sorted(accepted))
            where = f"{path}.{name}" if path else name
            raise ConfigError(f"config.{where}: there is no such field; did you mean {known}?")


def checked(value: Any, annotation: Any, path: str) -> Any:
    """`value` as its annotation wants it, lists as tuples and whole numbers as floats where asked."""
    if isinstance(value, list | tuple):
        value = tuple(checked(item, Any, path) for item in value)
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    kind = typing.get_origin(annotation) or annotation
    simple = isinstance(kind, type) and kind in (int, float, bool, str, tuple)
    if simple and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        raise ConfigError(
            f"config.{path} = {value!r}: must be of type {kind.__name__}, not {type(value).__name__}"
        )
    return value


def _parameters(factory: Any) -> dict[str, Any]:
    """Argument names of a class or function -> their annotations."""
    # `parent` and `name` belong to Flax.
    return {
        name: parameter.annotation
        for name, parameter in inspect.signature(factory).parameters.items()
        if name not in ("parent", "name")
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }


def _class_of(annotation: Any) -> type | None:
    return annotation if isinstance(annotation, type) else None


def _import(name: str, path: str, allow_code: bool) -> Any:
    if not allow_code:
        raise ConfigError(
            f'config.{path}.name = "{name}": this config was read from a file and may not import code; '
            "load it with allow_code=True if you trust it"
        )
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f'config.{path}.name = "{name}": cannot be imported ({error})') from error
