"""The flag --config: a file or the name of a shipped experiment, and its overrides --config.<field>=value."""

import importlib.util
import logging
import re
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

log = logging.getLogger(__name__)

_FLAG = re.compile(r"--?(no)?config(?:\.([^=]+))?(?:=(.*))?", re.DOTALL)
_NEXT_FLAG = re.compile("--?[A-Za-z]")  # not a negative number


def config_names() -> list[str]:
    """The names of the experiments that are shipped.

    >>> "digits" in config_names()
    True
    """
    return sorted(path.stem for path in _shipped().glob("*.py"))


def take_config(arguments: Sequence[str]) -> tuple[ConfigDict | None, list[str]]:
    """(the config of --config with its overrides, the other arguments).

    >>> config, rest = take_config(["--config=digits", "--config.train.steps=5", "--workdir=runs/digits"])
    >>> config.train.steps, rest
    (5, ['--workdir=runs/digits'])
    """
    value, overrides, rest = _split(flags.FlagValues().read_flags_from_files(list(arguments), force_gnu=False))
    if value is None:
        if overrides:
            raise ValueError(f"--config.{overrides[0][0]}: needs --config, such as --config digits")
        return None, rest
    config = load_config(value)
    if overrides:
        from diffusion_jax.config.overrides import override_fields  # imports JAX

        override_fields(config, overrides)
    config.lock()
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


def _split(arguments: list[str]) -> tuple[str | None, list[tuple[str, str | bool]], list[str]]:
    """(the last value of --config or None, the overrides, the other arguments).

    An override is (path, text), or (path, False for --noconfig, else True) for a flag without a value.
    """
    value: str | bool | None = None
    overrides, rest, waiting = [], [], list(arguments)
    while waiting:
        argument = waiting.pop(0)
        match = _FLAG.fullmatch(argument)
        if not match:
            rest.append(argument)
            continue
        negation, path, text = match.groups()
        if negation and (text is not None or path is None):
            raise ValueError(f"{argument}: must be --{argument.lstrip('-').removeprefix('no')}")
        found = _take_value(negation, text, waiting)
        if path is None:
            value = found
        elif "[" in path:
            raise ValueError(f"--config.{path}: an item cannot be set; set the whole field")
        else:
            overrides.append((path, found))
    if isinstance(value, bool):
        raise ValueError(f"--config: needs a value, a file or one of {', '.join(config_names())}")
    return value, overrides, rest


def _take_value(negation: str | None, text: str | None, waiting: list[str]) -> str | bool:
    """The text behind "=", or the next argument if it is not a flag, or False for --noconfig and True for --config."""
    if text is not None:
        return text
    if waiting and not negation and not _NEXT_FLAG.match(waiting[0]):
        return waiting.pop(0)
    return not negation


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
