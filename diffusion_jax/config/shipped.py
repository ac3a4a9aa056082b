"""The shipped experiments as functions, whose result `dj.train` takes.

    config = dj.configs.folder("cpu", path="images", size=48, steps=2000, model=dict(dropout=0.1))
    dj.train(config, "runs/mine")

Each function takes the variant of the config ("smoke", "cpu"), and as keywords

- fields of its data and of its training, such as path, size, steps and batch_size;
- whole sections, as a dict of the fields to set, model=dict(channels=(32, 64)), or with a "name" to replace the
  component, sampler=dict(name="DDIM", eta=0.5). A text means the same as on the command line: sampler="DDIM(eta=0.5)".

Every other field keeps the value of the file in configs/. Raises ConfigError for a field that does not exist, and for a
value of another type.

>>> config = dj.configs.digits(steps=100, seed=1, sampler="DDIM(eta=0.5)")
>>> config.train.steps, config.train.batch_size, config.sampler.name
(100, 128, 'DDIM')
>>> dj.configs.digits(stpes=100)
Traceback (most recent call last):
...
diffusion_jax.config.components.ConfigError: config.stpes: there is no such field; did you mean steps...
"""

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from diffusion_jax.config.components import ConfigError, argument_types, check_names
from diffusion_jax.config.files import config_names, load_shipped, read_docstring
from diffusion_jax.config.overrides import override_fields
from diffusion_jax.config.sections import COMPONENTS, SECTIONS, SETTINGS

__all__ = config_names()


def _make_function(name: str) -> Callable[..., ConfigDict]:
    def get_config(variant: str = "", **fields: Any) -> ConfigDict:
        try:
            config = load_shipped(name, variant)
        except ValueError as error:
            raise ConfigError(f"configs.{name}: {error}") from error
        try:
            override_fields(config, _find_overrides(config, fields))
        except ConfigError as error:
            raise ConfigError(str(error).replace("--config.", "config.")) from error
        return config

    get_config.__name__ = get_config.__qualname__ = name
    get_config.__doc__ = (
        f"{read_docstring(name)}\n\nThe module `dj.configs` explains the arguments.\n\n"
        f'>>> dj.configs.{name}("smoke", seed=1).train.steps\n10\n'
    )
    return get_config


def _find_overrides(config: ConfigDict, fields: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """(path, value) of each field that the keywords set. Raises ConfigError for one that is set twice."""
    overrides = [(path, _as_plain_value(value)) for path, value in _find_paths(config, fields)]
    paths = [path for path, _ in overrides]
    if twice := [path for path in paths if paths.count(path) > 1]:
        raise ConfigError(f"config.{twice[0]}: is set twice; set it once")
    return overrides


def _as_plain_value(value: Any) -> Any:
    """A path as text, and a number of numpy as one of Python."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.item() if isinstance(value, np.generic) else value


def _find_paths(config: ConfigDict, fields: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(path, value) of each field that the keywords set."""
    data = argument_types(COMPONENTS["data"].find(config.data.name, "data", allow_code=False))
    plan = argument_types(SETTINGS["train"])
    check_names(fields, {*SECTIONS, *data, *plan}, "")
    for key, given in fields.items():
        value = given.to_dict() if isinstance(given, ConfigDict) else given
        if key in data and key in plan:
            raise ConfigError(f"{key}: is a field of data and of train; use data=dict({key}=...) or train=dict(...)")
        if key not in SECTIONS:
            yield f"{'data' if key in data else 'train'}.{key}", value
        elif isinstance(value, Mapping) and "name" not in value:
            yield from ((f"{key}.{field}", inner) for field, inner in value.items())
        else:
            yield key, value


for _name in __all__:
    globals()[_name] = _make_function(_name)


def __dir__() -> list[str]:
    return __all__
