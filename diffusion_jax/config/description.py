"""The description of a run that is stored in each of its checkpoints."""

import platform
from collections.abc import Callable
from typing import Any

import jax

from diffusion_jax.config.components import ConfigError
from diffusion_jax.config.sections import COMPONENTS, SECTIONS
from diffusion_jax.validation import describe
from diffusion_jax.version import __version__

__all__ = ["check_config", "check_description", "describe_run"]


def describe_run(
    config: dict[str, Any],
    data: str | None,
    image_shape: tuple[int, int, int],
    num_classes: int,
    class_names: tuple[str, ...],
    changes: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Everything that `load` needs besides the weights, as JSON values; `data` is the data's fingerprint.

    `changes` are those that a resumed run has accepted.

    >>> describe_run({}, None, (8, 8, 1), 2, ("cat", "dog"))["class_names"]
    ['cat', 'dog']
    """
    return {
        "config": config,
        "data": data,
        "image_shape": list(image_shape),
        "num_classes": num_classes,
        "class_names": list(class_names),
        "versions": {"diffusion_jax": __version__, "jax": jax.__version__, "python": platform.python_version()},
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    } | ({"changes": changes} if changes else {})


def check_description(description: dict[str, Any]) -> dict[str, Any]:
    """Returns a description that was read. Raises ConfigError if `describe_run` cannot have made it.

    >>> check_description(describe_run({}, None, (8, 8), 2, ()))
    Traceback (most recent call last):
    ...
    diffusion_jax.config.components.ConfigError: image_shape = [8, 8] in the checkpoint's description: must be ...
    """
    texts = lambda value: isinstance(value, list) and all(isinstance(each, str) for each in value)  # noqa: E731
    forms: dict[str, tuple[Callable[[Any], bool], str]] = {
        "data": (lambda value: value is None or isinstance(value, str), "text"),
        "image_shape": (lambda value: _are_integers(value, 1) and len(value) == 3, "[H, W, C]"),
        "num_classes": (lambda value: _are_integers([value], 0), "a number of classes"),
        "class_names": (texts, "a list of names"),
        "step": (lambda value: value is None or _are_integers([value], 0), "a number of steps"),
        "changes": (lambda value: value is None or isinstance(value, list), "a list of changes"),
    }
    for field, (is_valid, form) in forms.items():
        if not is_valid(description.get(field)):
            found = f"{field} = {describe(description.get(field))} in the checkpoint's description"
            raise ConfigError(f"{found}: must be {form}; use a checkpoint that this library has written")
    names, classes = description["class_names"], description["num_classes"]
    if len(names) not in (0, classes):
        raise ConfigError(f"class_names has length {len(names)} in the checkpoint's description: must be {classes}")
    check_config(description.get("config"))
    return description


def check_config(config: Any) -> None:
    """Raises ConfigError unless every section is there, with a name where it is a component."""
    if not isinstance(config, dict):
        raise ConfigError(f"config = {describe(config)}: is not a run's config")
    for section in SECTIONS:
        spec = config.get(section, {} if section == "mesh" else None)
        if not isinstance(spec, dict) or (section in COMPONENTS and not isinstance(spec.get("name"), str)):
            raise ConfigError(f"config.{section} = {describe(spec)}: is not a section of a run's config")


def _are_integers(values: Any, least: int) -> bool:
    return isinstance(values, list) and all(type(value) is int and least <= value < 2**31 for value in values)
