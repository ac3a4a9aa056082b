"""The fields of components and configs, each with its default and its line of the docstring."""

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
import optax

from diffusion_jax import models
from diffusion_jax.config.components import ConfigError, Namespace, check_names
from diffusion_jax.data import sources
from diffusion_jax.process import predictions, schedules
from diffusion_jax.run import Guidance, Sampling
from diffusion_jax.runtime.mesh import MeshShape
from diffusion_jax.sampling import grids, samplers
from diffusion_jax.training import losses
from diffusion_jax.training.loop import Plan

__all__ = ["ConfigField", "FieldDescription", "add_default", "config_fields", "describe_config", "describe_fields"]

REQUIRED = inspect.Parameter.empty

_SECTION = re.compile(r"^(?:Attributes|Args):\n((?:[ ].*\n|\n)+)", re.MULTILINE)
_ENTRY = re.compile(r"([\w*]+(?:, [\w*]+)*)(?: \([^)]*\))?:\s+(.*)", re.DOTALL)
_SENTENCE = re.compile(r"(?<=\.)\s+(?=[A-Z][a-z])")


class FieldDescription(NamedTuple):
    """A field of a component."""

    name: str
    type: str
    default: Any  # REQUIRED if there is none
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

    >>> docstring_lines("Args:\\n  low, high: limits of\\n    the interval.")
    {'low': 'limits of the interval.', 'high': 'limits of the interval.'}
    """
    section = _SECTION.search(inspect.cleandoc(docstring or "") + "\n")
    entries = re.split(r"^(?=\S)", textwrap.dedent(section[1]), flags=re.MULTILINE) if section else []
    found = [match for entry in entries if (match := _ENTRY.match(entry))]
    return {name.strip("*"): " ".join(match[2].split()) for match in found for name in match[1].split(", ")}


def _type_text(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def summarize(component: Any) -> str:
    """The first line of a component's docstring, without its full stop."""
    return (inspect.getdoc(component) or "").split("\n")[0].rstrip(".")


def config_fields(config: ml_collections.ConfigDict | Mapping[str, Any]) -> list[ConfigField]:
    """All fields of a config: those that it sets, and the remaining ones of its components with their defaults.

    Raises ConfigError if a component is unknown.
    """
    values = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else dict(config)
    fields = []
    for section, namespace in _COMPONENTS.items():
        spec = values.get(section)
        if isinstance(spec, Mapping) and "name" in spec:
            fields += _component(spec, namespace, section, _EXTRA.get(section, ()))
    for section, kind in (("train", Plan), ("mesh", MeshShape)):
        fields += _values(values.get(section) or {}, describe_fields(kind), Namespace(models), section)
    return fields


def describe_config(config: ml_collections.ConfigDict | Mapping[str, Any], prefix: str = "config.") -> list[str]:
    """Lines of text: each field of a config with its value, and under it the first sentence of its description.

    >>> describe_config({"mesh": {"fsdp": 8}})[-2]
    'config.mesh.fsdp = 8'
    """
    lines = []
    for path, value, line in config_fields(config):
        lines.append(f"{prefix}{path} = {'(required)' if value is REQUIRED else repr(value)}")
        lines += textwrap.wrap(_SENTENCE.split(line)[0], 110, initial_indent="    ", subsequent_indent="    ")
    return lines


def add_default(config: ml_collections.ConfigDict, path: str) -> None:
    """Adds the field at `path` with its default to a config that leaves it out, so that it can be overridden.

    Raises ConfigError if there is no such field, or its default is None or an object.
    """
    known = {field.path: field.value for field in config_fields(config)}
    parent, _, name = path.rpartition(".")
    if path not in known:
        start = f"{parent}." if parent else ""
        check_names(
            [name], sorted({other[len(start) :].split(".")[0] for other in known if other.startswith(start)}), parent
        )
    if not isinstance(known.get(path), bool | int | float | str | tuple):
        raise ConfigError(f"config.{path}: cannot be set on the command line; set it in the config's file")
    branch = config
    for depth, word in enumerate(parent.split("."), 1):
        if word not in branch:
            component = ".".join([*parent.split(".")[:depth], "name"])
            branch[word] = {"name": known[component]} if component in known else {}
        branch = branch[word]
    branch[name] = known[path]


def _component(
    spec: Mapping[str, Any], namespace: Namespace, path: str, extra: Sequence[FieldDescription] = (), line: str = ""
) -> list[ConfigField]:
    """The fields of the component that `spec` names, the name first."""
    component = namespace.find(spec["name"], path, allow_code=True)
    without = _FROM_ELSEWHERE.get(path, ())
    fields = [field for field in [*describe_fields(component), *extra] if field.name not in without]
    name = ConfigField(f"{path}.name", spec["name"], line or summarize(component))
    return [name, *_values(spec, fields, namespace, path)]


def _values(
    spec: Mapping[str, Any], fields: list[FieldDescription], namespace: Namespace, path: str
) -> list[ConfigField]:
    found = []
    for name, _, default, line in fields:
        value, inside = spec.get(name, default), f"{path}.{name}"
        nested = Namespace(grids if name == "grid" else namespace.module)
        if type(value).__name__ in nested.names() and dataclasses.is_dataclass(value):
            value = {"name": type(value).__name__} | {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        if isinstance(value, Mapping) and "name" in value:
            found += _component(value, nested, inside, line=line)
        else:
            found.append(ConfigField(inside, value, line))
    return found


_GUIDANCE = {"scale": "guidance", "interval": "guidance_interval", "rescale": "guidance_rescale"}
_SAMPLER_FIELDS = [
    *(field for field in describe_fields(Sampling) if field.name not in ("sampler", "guidance")),
    *(
        field._replace(name=_GUIDANCE[field.name], default=1.0 if field.default is REQUIRED else field.default)
        for field in describe_fields(Guidance)
        if field.name in _GUIDANCE
    ),
]
_OPTIMIZER_FIELDS = [
    FieldDescription(
        "lr_schedule",
        "float | dict",
        REQUIRED,
        'learning rate by update: a number, or one of optax\'s schedules, dict(name="cosine_decay_schedule", ...).',
    ),
    FieldDescription("clip_norm", "float", 0.0, "largest norm of the gradient; 0 turns clipping off."),
]
_COMPONENTS = {
    "data": Namespace(sources, sources.Dataset),
    "model": Namespace(models),
    "schedule": Namespace(schedules, schedules.Schedule),
    "prediction": Namespace(predictions, predictions.Prediction),
    "loss": Namespace(losses, losses.Loss),
    "optimizer": Namespace(optax),
    "sampler": Namespace(samplers, samplers.Sampler),
}
# Fields that a section has beside those of its component, and arguments that come from other sections.
_EXTRA = {"sampler": _SAMPLER_FIELDS, "optimizer": _OPTIMIZER_FIELDS}
_FROM_ELSEWHERE = {"loss": ("schedule", "prediction"), "optimizer": ("learning_rate",)}
