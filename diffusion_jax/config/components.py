"""Components named in a config: dict(name="DDIM", eta=0.0) -> DDIM(eta=0.0).

A name is looked up among the public names of a module. "pkg.module:Name" refers to the user's own code, but only where
a config may import code: never in a config that was read from a checkpoint.
"""

import collections.abc
import dataclasses
import difflib
import importlib
import inspect
import math
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from diffusion_jax.validation import printable

__all__ = [
    "ConfigError",
    "Namespace",
    "argument_types",
    "build",
    "build_section",
    "check_names",
    "construct",
    "convert",
    "get_name",
]


class ConfigError(ValueError):
    """A config that cannot be used. The message names the field, its value and what to do."""

    def __init__(self, message: str):
        super().__init__(printable(message))


@dataclasses.dataclass(frozen=True)
class Namespace:
    """The public names of `module` and of those `below` it: subclasses of the class `kind`, or, if None, callables.

    >>> from diffusion_jax.sampling import grids
    >>> Namespace(grids, grids.Grid).find("Leading", "sampler.grid", allow_code=False)
    <class 'diffusion_jax.sampling.grids.Leading'>
    """

    module: types.ModuleType
    kind: type | None = None
    below: tuple[types.ModuleType, ...] = ()

    def names(self) -> list[str]:
        """The names that a config may use, sorted."""
        return sorted(self._public())

    def find(self, name: str, path: str, allow_code: bool) -> Any:
        """The class or function called `name`. Raises ConfigError for an unknown name or another kind."""
        where = f'config.{path}.name = "{name}"'
        if ":" in name:
            return self._import(name, where, allow_code)
        if name not in (public := self._public()):
            raise ConfigError(f"{where}: unknown name; {_suggest(name, public)}")
        return public[name]

    def inside(self, annotation: Any) -> "Namespace":
        """The names for an argument of a component: of the same modules, and of the type that its annotation asks."""
        is_open = annotation in (Any, inspect.Parameter.empty) or not isinstance(annotation, type)
        return dataclasses.replace(self, kind=None if is_open else annotation)

    def _public(self) -> dict[str, Any]:
        found = {name: value for module in (*self.below, self.module) for name, value in vars(module).items()}
        return {name: value for name, value in found.items() if self._is_public(name, value)}

    def _import(self, name: str, where: str, allow_code: bool) -> Any:
        found = _import_attribute(name, where, allow_code)
        if inspect.isabstract(found):
            raise ConfigError(f"{where}: still lacks {', '.join(sorted(found.__abstractmethods__))}")
        if not self._is_kind(found):
            raise ConfigError(f"{where}: must be a {self.kind.__name__ if self.kind else 'class or function'}")
        return found

    def _is_public(self, name: str, value: Any) -> bool:
        home = str(getattr(value, "__module__", None))
        return not name.startswith("_") and home.startswith(self.module.__name__) and self._is_kind(value)

    def _is_kind(self, value: Any) -> bool:
        if self.kind is None:
            return callable(value)
        is_subclass = isinstance(value, type) and issubclass(value, self.kind) and value is not self.kind
        return is_subclass and not inspect.isabstract(value)


def build(
    spec: Any,
    namespace: Namespace,
    path: str,
    allow_code: bool = True,
    own_fields: Collection[str] = (),
    **kwargs: Any,
) -> Any:
    """Builds the object that `spec`, a dict with a "name", describes; `kwargs` are further arguments.

    `own_fields` of the spec belong to the caller and are not passed on. Nested specs are built from the same module,
    lists become tuples, and every argument is checked against its annotation. Raises ConfigError with the path of the
    field.

    >>> from diffusion_jax.process import schedules
    >>> build({"name": "Cosine", "steps": 100}, Namespace(schedules, schedules.Schedule), "schedule").steps
    100
    """
    factory = namespace.find(get_name(spec, path), path, allow_code)
    accepted = argument_types(factory)
    check_names([key for key in spec if key != "name"], (accepted.keys() - kwargs.keys()) | {*own_fields}, path)
    arguments = {key: value for key, value in spec.items() if key not in ("name", *own_fields)}
    for key, value in arguments.items():
        inside, annotation = f"{path}.{key}", accepted[key]
        if isinstance(value, Mapping) and not _is_plain(annotation):
            arguments[key] = build(value, namespace.inside(annotation), inside, allow_code)
        else:
            arguments[key] = convert(value, annotation, inside)
    return construct(factory, path, **arguments, **kwargs)


def build_section(cls: type, spec: Any, path: str) -> Any:
    """Builds the dataclass `cls` from a section of a config that has no "name"."""
    if not isinstance(spec, Mapping):
        raise ConfigError(f"config.{path} = {spec!r}: must be a dict")
    accepted = argument_types(cls)
    check_names(spec, accepted, path)
    return construct(cls, path, **{key: convert(value, accepted[key], f"{path}.{key}") for key, value in spec.items()})


def construct(factory: Any, path: str, /, **arguments: Any) -> Any:
    """factory(**arguments); its ValueError or TypeError becomes a ConfigError of one line.

    Other exceptions are converted too if they come from the user's own code; from the library's code they are
    bugs, and pass through.
    """
    try:
        inspect.signature(factory).bind(**arguments)
        return factory(**arguments)
    except ConfigError:
        raise
    except (ValueError, TypeError) as error:
        raise ConfigError(f"config.{path}: {_join_lines(error)}") from error
    except Exception as error:
        if str(getattr(factory, "__module__", "")).startswith(__name__.partition(".")[0]):
            raise
        kind = type(error).__name__
        raise ConfigError(f"config.{path}: {factory.__name__} fails with {kind}: {_join_lines(error)}") from error


def get_name(spec: Any, path: str) -> str:
    """The "name" of a component. Raises ConfigError unless `spec` is a dict with a "name"."""
    if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str):
        raise ConfigError(f'config.{path} = {spec!r}: must be dict(name="...", ...)')
    return spec["name"]


def check_names(found: Iterable[str], accepted: Collection[str], path: str) -> None:
    """Raises ConfigError for a field that is not `accepted`, and suggests the nearest ones."""
    start = f"config.{path}." if path else "config."
    for name in found:
        if name not in accepted:
            raise ConfigError(f"{start}{name}: there is no such field; {_suggest(name, accepted)}")


def convert(value: Any, annotation: Any, path: str) -> Any:
    """`value` as its annotation asks: lists as tuples, integers as floats. Raises ConfigError for another type."""
    if isinstance(value, list | tuple):
        value = tuple(convert(item, Any, path) for item in value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"config.{path} = {value}: must be a finite number")
    if not _matches(value, annotation):
        shown = repr(value)[:200]  # of a run, with all of its arrays, it has thousands of lines
        raise ConfigError(f"config.{path} = {shown}: {_requirement(annotation)}, not {type(value).__name__}")
    return float(value) if annotation is float else value


def _requirement(annotation: Any) -> str:
    is_class = isinstance(annotation, type)
    if is_class and not _is_plain(annotation):
        return f'must be dict(name="...", ...), a {annotation.__name__}'
    name = annotation.__name__ if is_class else str(annotation)
    return f"must be of type {name}" if len(name) < 40 else "must be of another type"


def _is_plain(annotation: Any) -> bool:
    return (typing.get_origin(annotation) or annotation) in (bool, int, float, str, tuple)


def _matches(value: Any, annotation: Any) -> bool:
    """Whether a value has the type of an annotation; an annotation without a type matches every value."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(_matches(value, option) for option in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and all(_matches(item, arguments[0]) for item in value)
    if origin is collections.abc.Callable:
        return callable(value)
    if not isinstance(annotation, type) or annotation in (Any, inspect.Parameter.empty):
        return True
    if annotation in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, int | float if annotation is float else annotation)


def _suggest(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    if near:
        return f"did you mean {' or '.join(near)}?"
    more = ", ..." if len(known) > 20 else ""
    return f"use one of {', '.join(sorted(known)[:20])}{more}" if known else "it takes no arguments"


def argument_types(factory: Any) -> dict[str, Any]:
    """The arguments of a class or function by name, with their annotations. Raises ConfigError for some built-ins.

    >>> argument_types(dj.schedules.Cosine)["steps"]
    <class 'int'>
    """
    try:
        parameters = inspect.signature(factory).parameters
    except ValueError as error:
        raise ConfigError(f"config: {factory!r} cannot be configured ({error})") from error
    # `parent` and `name` belong to Flax.
    return {
        name: each.annotation
        for name, each in parameters.items()
        if name not in ("parent", "name") and each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
    }


_ALLOW = "use --allow_code or dj.load(..., allow_code=True) if you trust it"


def _import_attribute(name: str, where: str, allow_code: bool) -> Any:
    if not allow_code:
        raise ConfigError(f"{where}: a config from a file may not import code; {_ALLOW}")
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # the user's module may raise anything
        raise ConfigError(f"{where}: cannot be imported ({_join_lines(error)})") from error


def _join_lines(error: Exception) -> str:
    return " ".join(str(error).split())
