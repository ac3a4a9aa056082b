"""Fields of a config that are set by text, as on a command line, --config.data.size=48,64, or by a value in Python."""

import ast
import collections.abc
import inspect
import re
import types
import typing
from collections.abc import Mapping, Sequence, Set
from typing import Any, NamedTuple

import optax
from ml_collections import ConfigDict

from diffusion_jax.config.components import ConfigError, Namespace, argument_types, check_names, convert
from diffusion_jax.config.defaults import with_defaults
from diffusion_jax.config.optimizer import OptimizerSettings
from diffusion_jax.config.sampler import SETTING_TYPES
from diffusion_jax.config.sections import COMPONENTS, GRIDS, SECTIONS, SETTINGS
from diffusion_jax.config.text import spec_from_text
from diffusion_jax.validation.arguments import join_options

__all__ = ["override_fields"]

# Fields of a section that are not arguments of its component.
_OWN_TYPES = {
    "optimizer": argument_types(OptimizerSettings) | {"lr_schedule": float | optax.Schedule},
    "sampler": SETTING_TYPES,
}
# Arguments of components that come from another part of the config.
_ELSEWHERE = {
    "loss.schedule": "config.schedule",
    "loss.prediction": "config.prediction",
    "optimizer.learning_rate": "config.optimizer.lr_schedule",
}
# What a text of each type looks like.
_FORMS = {
    bool: "true or false",
    int: "an integer (8)",
    float: "a number (0.5)",
    tuple: "numbers with commas (8,16)",
    str: "text",
    types.NoneType: "none",
}
_WORDS = {"true": True, "false": False, "none": None}
_BOOLS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
_NAME = re.compile(r"\s*[\w.]+(:\w+)?\s*(\(.*\))?\s*", re.DOTALL)
_CALL = re.compile(r"\s*[\w.]+(:\w+)?\s*\(.*\)\s*", re.DOTALL)


class _Field(NamedTuple):
    annotation: Any  # the type of the argument; Mapping for a section that is a component
    namespace: Namespace | None  # of the component that the field is, or may be
    value: Any  # from the config, else the default


def override_fields(config: ConfigDict, overrides: Sequence[tuple[str, Any]]) -> None:
    """Sets fields of a config, (path, text) each; a flag without a text is True or False.

    From Python, a field may be a value instead, and a component a dict with its "name".

    A text is read as the annotation of the field says. A component is a name with arguments, as in Python, which
    replaces the component of the config and all of its arguments; the sections `optimizer` and `sampler` keep their own
    fields, such as `lr_schedule` and `steps`. Components are set before their fields, whatever the order of `overrides`
    is; of several texts for one field the last one counts. Raises ConfigError for a field that does not exist, for a
    value of another type, and for a name whose component does not take the arguments that the config has.

    >>> config = ConfigDict({"data": {"name": "Folder", "path": "images", "size": 64}})
    >>> override_fields(config, [("data.size", "48,64"), ("data.flip", True)])
    >>> config.data.size, config.data.flip
    ((48, 64), True)
    """
    paths = [path for path, _ in overrides]
    for path, text in sorted(overrides, key=lambda override: override[0].removesuffix(".name").count(".")):
        field = _find_field(config, path)
        value = _read_text(path, text, field)
        if isinstance(value, tuple) and paths.count(path) > 1:
            raise ConfigError(f"--config.{path}: must be given once; write all values with commas, such as 8,16")
        if path in _OWN_TYPES:
            value = {name: kept for name, kept in config.get(path, {}).items() if name in _OWN_TYPES[path]} | value
        if path.endswith(".name") and field.namespace is not None:
            _check_arguments(config, path.removesuffix(".name"), value, field.namespace)
        _set(config, path, value)


def _find_field(config: ConfigDict, path: str) -> _Field:
    section, *words = path.split(".")
    check_names([section], SECTIONS, "")
    if section in SETTINGS and not words:
        raise ConfigError(f"config.{section}: is a section; set one of its fields, such as --config.train.steps=500")
    field, at = _Field(Mapping, COMPONENTS.get(section), _fill_sections(config).get(section)), section
    for word in words:
        fields = _inner_fields(field, at)
        if f"{at}.{word}" in _ELSEWHERE:
            raise ConfigError(f"config.{at}.{word}: there is no such field; set {_ELSEWHERE[f'{at}.{word}']}")
        check_names([word], sorted(fields), at)
        field, at = fields[word], f"{at}.{word}"
    return field


def _fill_sections(config: ConfigDict) -> dict[str, Any]:
    """The sections with the defaults of their components, without those that are not well formed."""
    specs = {name: spec for name, spec in config.to_dict().items() if isinstance(spec, Mapping) and name in SECTIONS}
    return with_defaults({name: spec for name, spec in specs.items() if name in SETTINGS or _is_component(spec)})


def _inner_fields(parent: _Field, path: str) -> dict[str, _Field]:
    """The fields of a section or a component; none of a plain value."""
    if path in SETTINGS:
        return {
            name: _Field(kind, None, (parent.value or {}).get(name))
            for name, kind in argument_types(SETTINGS[path]).items()
        }
    if parent.namespace is None or not _is_component(parent.value):
        return {}
    factory = parent.namespace.find(parent.value["name"], path, allow_code=True)
    fields = {"name": _Field(str, parent.namespace, parent.value["name"])}
    for name, kind in (argument_types(factory) | _OWN_TYPES.get(path, {})).items():
        namespace = GRIDS if name == "grid" else parent.namespace.inside(kind)
        fields[name] = _Field(kind, namespace, parent.value.get(name))
    return fields


def _check_arguments(config: Any, path: str, name: str, namespace: Namespace) -> None:
    """Raises ConfigError if the component `name` does not take the arguments that the config has at `path`."""
    accepted = argument_types(namespace.find(name, path, allow_code=True)) | _OWN_TYPES.get(path, {})
    for word in path.split("."):
        config = config.get(word, {})
    if left := ", ".join(key for key in config if key != "name" and key not in accepted):
        whole = f'--config.{path}="{name}()", with its arguments in the parentheses'
        raise ConfigError(f'config.{path}.name = "{name}": does not take {left} of the config; write {whole}')


def _read_text(path: str, text: Any, field: _Field) -> Any:
    """The value that a text means, or that it is already. Raises ConfigError for another type."""
    if _is_component(text) and field.namespace is not None:
        return dict(text)  # checked when it is built
    annotation = _annotation(field)
    options = _options(annotation)
    kinds = {typing.get_origin(option) or option for option in options}
    if isinstance(text, str) and _means_component(text, field, kinds):
        return _read_component(path, text, field)
    if collections.abc.Callable in kinds and not kinds & _FORMS.keys() - {types.NoneType}:
        raise ConfigError(f"config.{path}: cannot be set on the command line; set it in the config's file")
    value = _read_plain(text, kinds) if isinstance(text, str) else text
    if type(value) is int and float in kinds and isinstance(field.value, float):
        value = float(value)
    try:
        return convert(value, annotation, path)
    except ConfigError:
        forms = [form for kind, form in _FORMS.items() if kind in kinds]
        if not forms or _is_component(field.value):
            forms.append(f'a component ("{_example(field)}")')
        given = "" if isinstance(text, bool) else f"={text}"
        raise ConfigError(f"--config.{path}{given}: must be {join_options(forms)}") from None


def _annotation(field: _Field) -> Any:
    """The type of a field; for a field without one, the type of its value."""
    kind = type(field.value)
    if field.annotation not in (Any, inspect.Parameter.empty) or kind not in (bool, int, float, str, tuple, list):
        return field.annotation
    return {int: int | float, list: tuple}.get(kind, kind)


def _options(annotation: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if is_union else (annotation,)


def _means_component(text: str, field: _Field, kinds: Set[Any]) -> bool:
    if kinds <= _FORMS.keys() and field.annotation is not Any:
        return False
    if all(isinstance(kind, type) and kind not in (*_FORMS, Any, inspect.Parameter.empty) for kind in kinds):
        return True
    return bool((_NAME if _is_component(field.value) else _CALL).fullmatch(text)) and isinstance(
        _parse_literal(text), str
    )


def _read_component(path: str, text: str, field: _Field) -> dict[str, Any]:
    """The component that a text names, as in a config."""
    assert field.namespace is not None
    spec = spec_from_text(text, f"config.{path}", _example(field), allow_code=True)
    accepted = argument_types(field.namespace.find(spec["name"], path, allow_code=True))
    check_names([name for name in spec if name != "name"], accepted | _OWN_TYPES.get(path, {}), path)
    return spec


def _example(field: _Field) -> str:
    names = field.namespace.names() if field.namespace else []
    return f"{field.value['name'] if _is_component(field.value) else names[0] if names else 'Name'}()"


def _read_plain(text: str, kinds: Set[Any]) -> Any:
    if kinds <= {str, types.NoneType}:
        return None if types.NoneType in kinds and text.strip().lower() == "none" else text
    if kinds == {bool}:
        return _BOOLS.get(text.strip().lower(), text)
    value = _parse_literal(text)
    if tuple in kinds and not kinds & {bool, int, float, str} and not isinstance(value, tuple | list):
        return (value,) if text.strip() else ()
    return value


def _parse_literal(text: str) -> Any:
    """A text as the value that it is in Python, else as text."""
    if text.strip().lower() in _WORDS:
        return _WORDS[text.strip().lower()]
    for parse in (int, float, lambda text: ast.literal_eval(text.strip())):
        try:
            return parse(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            pass
    return text


def _set(config: ConfigDict, path: str, value: Any) -> None:
    """Sets a field, and the sections and components above it that the config leaves at their defaults."""
    *above, name = path.split(".")
    filled: Any = _fill_sections(config)
    branch: Any = config
    with config.unlocked(), config.ignore_type():
        for word in above:
            filled = filled.get(word, {})
            if word not in branch:
                branch[word] = {"name": filled["name"]} if "name" in filled else {}
            branch = branch[word]
        branch[name] = value


def _is_component(spec: Any) -> bool:
    return isinstance(spec, Mapping) and isinstance(spec.get("name"), str)
