"""The fields of components and configs, each with its default and its line of the docstring."""

import inspect
import re
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_collections

from diffusion_jax.config.components import Namespace
from diffusion_jax.config.defaults import with_defaults
from diffusion_jax.config.optimizer import OptimizerSettings
from diffusion_jax.config.sections import COMPONENTS, GRIDS, SECTIONS, SETTINGS
from diffusion_jax.run import Guidance, Sampling

__all__ = ["ConfigField", "FieldDescription", "config_fields", "describe_config", "describe_fields"]

REQUIRED = inspect.Parameter.empty

_SECTION = re.compile(r"^(?:Attributes|Args):\n((?:[ ].*\n|\n)+)", re.MULTILINE)
_ENTRY = re.compile(r"([\w*]+(?:, [\w*]+)*)(?: \([^)]*\))?:\s+(.*)", re.DOTALL)
_SENTENCE = re.compile(r"(?<=\.)\s+(?=[A-Z][a-z])")


class FieldDescription(NamedTuple):
    """A field of a component."""

    name: str
    type: str
    default: Any  # REQUIRED for an argument without a default
    line: str  # from the docstring; "" if the docstring does not name the field


class ConfigField(NamedTuple):
    """A field of a config."""

    path: str  # such as "model.channels"
    value: Any  # from the config, else the default
    line: str


def describe_fields(component: Callable[..., Any]) -> list[FieldDescription]:
    """The arguments of a component (a dataclass, a Flax module or a function), in their order.

    The lines come from the `Attributes:` or `Args:` section of the docstring and of those of the base classes.

    >>> [field.name for field in describe_fields(dj.samplers.DPMSolverPP)]
    ['order', 'eta']
    >>> describe_fields(dj.models.UNet)[1][:3]
    ('blocks', 'int', 2)
    """
    bases = inspect.getmro(component)[::-1] if inspect.isclass(component) else [component]
    lines: dict[str, str] = {}
    for base in bases:
        found = docstring_lines(vars(base).get("__doc__") if inspect.isclass(base) else base.__doc__)
        lines |= {name: line for name, line in found.items() if not (name in lines and line.startswith("as in `"))}
    return [
        FieldDescription(name, _type_text(parameter.annotation), parameter.default, lines.get(name, ""))
        for name, parameter in inspect.signature(component).parameters.items()
        if name not in ("parent", "name")  # Flax's own
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]


def docstring_lines(docstring: str | None) -> dict[str, str]:
    """Name -> description, from the `Attributes:` or `Args:` section; names that share an entry share its text.

    >>> docstring_lines("Summary.\\n\\nArgs:\\n  low, high: limits of\\n    the interval.")
    {'low': 'limits of the interval.', 'high': 'limits of the interval.'}
    """
    section = _SECTION.search(inspect.cleandoc(docstring or "") + "\n")
    entries = re.split(r"^(?=\S)", textwrap.dedent(section[1]), flags=re.MULTILINE) if section else []
    found = [match for entry in entries if (match := _ENTRY.match(entry))]
    return {name.strip("*"): " ".join(match[2].split()) for match in found for name in match[1].split(", ")}


def _type_text(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def summarize(component: Any) -> str:
    """The first line of a component's docstring, without its full stop.

    >>> summarize(describe_fields)
    'The arguments of a component (a dataclass, a Flax module or a function), in their order'
    """
    return (inspect.getdoc(component) or "").split("\n")[0].rstrip(".")


def config_fields(config: ml_collections.ConfigDict | Mapping[str, Any]) -> list[ConfigField]:
    """All fields of a config: those that it sets, and the remaining ones of its components with their defaults.

    Sections that are unknown or name no component are left out. Raises ConfigError if a component is unknown.

    >>> config_fields({"sampler": {"name": "DDIM"}})[1].path
    'sampler.eta'
    """
    values = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else config
    known = {
        section: spec
        for section, spec in values.items()
        if section in SETTINGS or (section in COMPONENTS and isinstance(spec, Mapping) and "name" in spec)
    }
    filled, fields = with_defaults(known), []
    for section in filter(filled.__contains__, SECTIONS):
        if section in SETTINGS:
            fields += _fields(filled[section], section, COMPONENTS["model"], _lines(SETTINGS[section]))
        else:
            fields += _component_fields(filled[section], section, COMPONENTS[section], "")
    return fields


def describe_config(config: ml_collections.ConfigDict | Mapping[str, Any], prefix: str = "config.") -> list[str]:
    """Lines of text: each field of a config with its value, and under it the first sentence of its description.

    >>> describe_config({"mesh": {"fsdp": 8}})[-2]
    'config.mesh.fsdp = 8'
    """
    lines = []
    for path, value, line in config_fields(config):
        lines.append(f"{prefix}{path} = {value!r}")
        sentence, indent = _SENTENCE.split(line)[0], " " * 6
        lines += textwrap.wrap(sentence, 110, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
    return lines


def _component_fields(spec: Mapping[str, Any], path: str, namespace: Namespace, line: str) -> list[ConfigField]:
    """The fields of a component, its name first; `line` describes the field that holds the component."""
    component = namespace.find(spec["name"], path, allow_code=True)
    lines = {"name": line or summarize(component)} | _lines(component) | _BESIDE.get(path, {})
    return _fields(spec, path, namespace.inside(Any), lines)


def _fields(spec: Mapping[str, Any], path: str, namespace: Namespace, lines: Mapping[str, str]) -> list[ConfigField]:
    """The fields of `spec`, those with `lines` first."""
    fields = []
    for name in [*filter(spec.__contains__, lines), *filter(lambda name: name not in lines, spec)]:
        value, line = spec[name], lines.get(name, "")
        if isinstance(value, Mapping) and "name" in value:
            nested = GRIDS if name == "grid" else namespace
            fields += _component_fields(value, f"{path}.{name}", nested, line)
        else:
            fields.append(ConfigField(f"{path}.{name}", tuple(value) if isinstance(value, list) else value, line))
    return fields


def _lines(component: Callable[..., Any]) -> dict[str, str]:
    return {field.name: field.line for field in describe_fields(component)}


_GUIDANCE = _lines(Guidance)
# Fields that a section has beside those of its component.
_BESIDE = {
    "optimizer": _lines(OptimizerSettings),
    "sampler": _lines(Sampling)
    | {f"guidance_{name}": line for name, line in _GUIDANCE.items()}
    | {"guidance": _GUIDANCE["scale"]},
}
