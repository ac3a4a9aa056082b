"""The flag --config: a file or the name of a shipped experiment, and its overrides --config.<field>=value."""

import importlib.util
import logging
import re
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

log = logging.getLogger(__name__)


def config_names() -> list[str]:
    """The names of the experiments that are shipped.

    >>> "digits" in config_names()
    True
    """
    return sorted(path.stem for path in _shipped().glob("*.py"))


def take_config(arguments: list[str], options: flags.FlagValues) -> tuple[ConfigDict | None, list[str]]:
    """(the config of --config, the other arguments), with each override defined as a flag of `options`.

    Parsing `options` then writes the overrides into the config.

    >>> options = flags.FlagValues()
    >>> config, rest = take_config(["--config=digits", "--config.train.steps=5"], options)
    >>> options(["train", *rest])
    ['train']
    >>> config.train.steps
    5
    """
    value, rest = _split(arguments)
    overrides = [match[1] for argument in rest if (match := re.match(r"--?(?:no)?config\.([^=]+)", argument))]
    if value is None:
        if overrides:
            raise ValueError(f"--config.{overrides[0]}: needs --config, such as --config digits")
        return None, rest
    config = load_config(value)
    for path in overrides:
        _make_overridable(config, path)
    config.lock()
    config_flags.DEFINE_config_dict("config", config, flag_values=options, sys_argv=rest)
    return config, rest


def load_config(value: str) -> ConfigDict:
    """The config of "digits", "digits:smoke" or "path/to/file.py:variant".

    Raises ValueError, in one line, if there is no such file or its code fails.

    >>> load_config("digits:smoke").train.steps
    10
    """
    path, *variant = _find(value)
    try:
        spec: Any = importlib.util.spec_from_file_location("config", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise ValueError("the file must define get_config(), as configs/digits.py does")
        config = module.get_config(*variant)
    except Exception as error:  # the file may raise anything
        raise ValueError(f"--config={value}: {_error_text(error, path)}") from error
    if not isinstance(config, Mapping | ConfigDict):
        raise ValueError(f"--config={value}: get_config() must return a ConfigDict, got {type(config).__name__}")
    return ConfigDict(config)


def _error_text(error: Exception, path: str) -> str:
    """The text of an error that a config file raised, with the line of the file if it has one."""
    if isinstance(error, ValueError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == Path(path).resolve()]
    line = error.lineno if isinstance(error, SyntaxError) else [None, *lines][-1]
    return f"{type(error).__name__}{f' in line {line}' if line else ''}: {error}"


def _split(arguments: list[str]) -> tuple[str | None, list[str]]:
    """(the last value of --config or None, the other arguments)."""
    value, rest, waiting = None, [], list(arguments)
    while waiting:
        argument = waiting.pop(0)
        match = re.fullmatch(r"--?config(?:=(.*))?", argument, re.DOTALL)
        if not match:
            rest.append(argument)
        elif match[1] is not None or waiting:
            value = match[1] if match[1] is not None else waiting.pop(0)
        else:
            raise ValueError(f"--config: needs a value, a file or one of {', '.join(config_names())}")
    return value, rest


def _find(value: str) -> list[str]:
    """[path] or [path, variant] of a config. configs/NAME.py, if there is no such file, is the shipped one."""
    place, *variant = value.split(":", 1)
    if Path(place).is_file():
        return [place, *variant]
    name = place.removeprefix("configs/").removesuffix(".py") if place.startswith("configs/") else place
    if name not in config_names():
        raise ValueError(f"--config={value}: must be a file or one of {', '.join(config_names())}")
    if name != place:
        log.info("%s is not here; using the config %s of the installed package", place, name)
    return [str(_shipped() / f"{name}.py"), *variant]


def _shipped() -> Path:
    """The directory of the configs: inside the package if it was installed, beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def _make_overridable(config: ConfigDict, path: str) -> None:
    """Adds a field that the config leaves at its default, so that it can be set on the command line."""
    if "[" in path:
        raise ValueError(f"--config.{path}: an item cannot be set; set the whole field")
    branch: Any = config
    for word in path.split("."):
        if not isinstance(branch, ConfigDict) or word not in branch:
            break
        branch = branch[word]
    else:
        return
    from diffusion_jax.config.fields import add_default  # imports JAX

    add_default(config, path)
