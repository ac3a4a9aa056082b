"""The flag --config: a file or the name of a shipped experiment, and its overrides --config.<field>=value."""

import re
from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict

from diffusion_jax.config.files import config_names, load_config

_FLAG = re.compile(r"--?(no)?config(?:\.([^=]+))?(?:=(.*))?", re.DOTALL)
_NEXT_FLAG = re.compile("--?[A-Za-z]")  # not a negative number


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
    try:
        config = load_config(value)
    except ValueError as error:
        raise ValueError(f"--config={value}: {error}") from error
    if overrides:
        from diffusion_jax.config.overrides import override_fields  # imports JAX

        override_fields(config, overrides)
    config.lock()
    return config, rest


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
