"""Components named in a config: dict(name="DDIM", eta=0.0) -> DDIM(eta=0.0).

A name is looked up among the public names of one module. "pkg.module:Name" reaches a user's own code,
but only where code may be imported: never for a config that was read out of a checkpoint.
"""

import collections.abc
import dataclasses
import difflib
import importlib
import inspect
import math
import types
import typing
from collections.abc import Mapping
from typing import Any


class ConfigError(ValueError):
    """A config that cannot be used; the message names the field, its value and the remedy."""


@dataclasses.dataclass(frozen=True)
class Namespace:
    """The public names of `module`: subclasses of the base class `kind`, or anything callable if None."""

    module: types.ModuleType
    kind: type | None = None

    def names(self) -> list[str]:
        return sorted(name for name, value in vars(self.module).items() if self._has(name, value))

    def _has(self, name: str, value: Any) -> bool:
        home = str(getattr(value, "__module__", None))
        return not name.startswith("_") and home.startswith(self.module.__name__) and self._fits(value)

    def _fits(self, value: Any) -> bool:
        if self.kind is None:
            return callable(value)
        is_kind = isinstance(value, type) and issubclass(value, self.kind) and value is not self.kind
        return is_kind and not inspect.isabstract(value)

    def find(self, name: str, path: str, allow_code: bool) -> Any:
        where = f'config.{path}.name = "{name}"'
        if ":" in name:
            found = _import(name, where, allow_code)
            if inspect.isabstract(found):
                missing = ", ".join(sorted(found.__abstractmethods__))
                raise ConfigError(f"{where}: still lacks {missing}")
            if not self._fits(found):
                wanted = self.kind.__name__ if self.kind else "class or function"
                raise ConfigError(f"{where}: is no {wanted}")
            return found
        if name not in self.names():
            raise ConfigError(f"{where}: there is none; {_offer(name, self.names())}")
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
    check_spec(spec, path)
    arguments = {key: value for key, value in spec.items() if key != "name"}
    factory = namespace.find(spec["name"], path, allow_code)
    accepted = _parameters(factory)
    check_names(arguments, [name for name in accepted if name not in given], path)
    for key, value in arguments.items():
        inside = f"{path}.{key}"
        kind = accepted[key]
        if isinstance(value, Mapping) and not _is_plain(kind):
            nested = Namespace(namespace.module, kind if isinstance(kind, type) else None)
            arguments[key] = build(value, nested, inside, allow_code)
        else:
            arguments[key] = check_type(value, kind, inside)
    return construct(factory, path, **arguments, **given)


def section(cls: type, spec: Any, path: str) -> Any:
    """The dataclass `cls` from a section of a config without a name."""
    if not isinstance(spec, Mapping):
        raise ConfigError(f"config.{path} = {spec!r}: must be a dict")
    accepted = _parameters(cls)
    check_names(spec, list(accepted), path)
    arguments = {k: check_type(v, accepted[k], f"{path}.{k}") for k, v in spec.items()}
    return construct(cls, path, **arguments)


def construct(factory: Any, path: str, /, **arguments: Any) -> Any:
    """factory(**arguments), with what it refuses told as a ConfigError of one line."""
    try:
        inspect.signature(factory).bind(**arguments)
        return factory(**arguments)
    except ConfigError:
        raise
    except (ValueError, TypeError) as error:
        raise ConfigError(f"config.{path}: {' '.join(str(error).split())}") from error
    except Exception as error:  # the user's own code may raise anything
        if str(getattr(factory, "__module__", "")).startswith(__package__):
            raise
        what = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ConfigError(f"config.{path}: {factory.__name__} fails with {what}") from error


def check_spec(spec: Any, path: str) -> None:
    """Raises ConfigError for what is no dict with a "name"."""
    if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str):
        raise ConfigError(f'config.{path} = {spec!r}: must be dict(name="...", ...)')


def check_names(found: Mapping | list, accepted: list[str], path: str) -> None:
    """Raises ConfigError for a field that is not `accepted`, with the nearest ones that are."""
    for name in found:
        if name not in accepted:
            where = f"{path}.{name}" if path else name
            raise ConfigError(f"config.{where}: there is no such field; {_offer(name, accepted)}")


def check_type(value: Any, annotation: Any, path: str) -> Any:
    """`value` as its annotation wants it: lists as tuples, whole numbers as floats where asked."""
    if isinstance(value, list | tuple):
        value = tuple(check_type(item, Any, path) for item in value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"config.{path} = {value}: must be a finite number")
    if _allows(value, annotation):
        return float(value) if annotation is float else value
    if isinstance(annotation, type) and not _is_plain(annotation):
        raise ConfigError(f'config.{path} = {value!r}: must be dict(name="...", ...), a {annotation.__name__}')
    wanted = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    wanted = wanted if len(wanted) < 40 else "another type"
    raise ConfigError(f"config.{path} = {value!r}: must be of type {wanted}, not {type(value).__name__}")


def _is_plain(annotation: Any) -> bool:
    return (typing.get_origin(annotation) or annotation) in (bool, int, float, str, tuple)


def _allows(value: Any, annotation: Any) -> bool:
    """Whether a value fits an annotation; one that says nothing about values fits all."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(_allows(value, one) for one in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and all(_allows(item, arguments[0]) for item in value)
    if origin is collections.abc.Callable:
        return callable(value)
    if not isinstance(annotation, type) or annotation in (Any, inspect.Parameter.empty):
        return True
    if annotation in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, int | float if annotation is float else annotation)


def _offer(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    if near:
        return f"did you mean {' or '.join(near)}?"
    more = ", ..." if len(known) > 20 else ""
    return f"there are {', '.join(sorted(known)[:20])}{more}" if known else "it takes none"


def _parameters(factory: Any) -> dict[str, Any]:
    """Argument names of a class or function -> their annotations."""
    try:
        parameters = inspect.signature(factory).parameters
    except ValueError as error:
        raise ConfigError(f"config: {factory!r} cannot be configured ({error})") from error
    # `parent` and `name` belong to Flax.
    return {
        name: parameter.annotation
        for name, parameter in parameters.items()
        if name not in ("parent", "name")
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }


def _import(name: str, where: str, allow_code: bool) -> Any:
    if not allow_code:
        raise ConfigError(
            f"{where}: this config was read from a file and may not import code; "
            "load it with allow_code=True if you trust it"
        )
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # the user's module may raise anything
        raise ConfigError(f"{where}: cannot be imported ({' '.join(str(error).split())})") from error
