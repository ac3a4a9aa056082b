"""Config files: Python with get_config(), by path or by the name of a shipped experiment. Does not import JAX."""

import ast
import importlib.util
import logging
import sys
import traceback
from collections.abc import Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

__all__ = ["config_names", "load_config", "load_shipped", "read_docstring"]

log = logging.getLogger(__name__)

_MODULE = "diffusion_jax_config"  # the name of the file that was loaded last


def config_names() -> list[str]:
    """The names of the experiments that are shipped.

    >>> "digits" in config_names()
    True
    """
    return sorted(path.stem for path in _directory().glob("*.py"))


def load_config(value: str) -> ConfigDict:
    """The config of "digits", "digits:smoke" or "path/to/file.py:variant".

    configs/NAME.py, if there is no such file, is the shipped one. Raises ValueError, in one line, if there is no such
    file or its code fails.

    >>> load_config("digits:smoke").train.steps
    10
    """
    place, *variant = value.split(":", 1)
    if Path(place).is_file():
        return _load_file(Path(place), *variant)
    name = place.removeprefix("configs/").removesuffix(".py") if place.startswith("configs/") else place
    if name not in config_names():
        raise ValueError(f"must be a file or one of {', '.join(config_names())}")
    if name != place:
        log.info("%s is not here; using the config %s of the installed package", place, name)
    return load_shipped(name, *variant)


def load_shipped(name: str, variant: str = "") -> ConfigDict:
    """The config of the shipped experiment `name`, whatever files are here.

    >>> load_shipped("digits", "smoke").train.steps
    10
    """
    return _load_file(_directory() / f"{name}.py", variant)


def read_docstring(name: str) -> str:
    """The text at the top of a shipped config's file.

    >>> read_docstring("digits").splitlines()[0]
    'Class-conditional digits: the 8x8 images that scikit-learn ships.'
    """
    return ast.get_docstring(ast.parse((_directory() / f"{name}.py").read_text("utf-8"))) or ""


def _load_file(path: Path, *variant: str) -> ConfigDict:
    try:
        module = _run_file(path)
        if not hasattr(module, "get_config"):
            raise ValueError("the file must define get_config(), as configs/digits.py does")
        config = module.get_config(*filter(None, variant))
    except Exception as error:  # the file may raise anything
        raise ValueError(_error_text(error, path)) from error
    if not isinstance(config, Mapping | ConfigDict):
        raise ValueError(f"get_config() must return a ConfigDict, got {type(config).__name__}")
    return ConfigDict(config)


class _UncachedLoader(SourceFileLoader):
    """Compiles the file each time: Python's cache tells files apart by the time in seconds, and not by their ending."""

    def path_stats(self, path: str) -> Any:
        raise OSError


def _run_file(path: Path) -> Any:
    """The module that a file is, known to Python by its name, as dataclasses need it."""
    spec: Any = importlib.util.spec_from_loader(_MODULE, _UncachedLoader(_MODULE, str(path)))
    module = sys.modules[_MODULE] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _error_text(error: Exception, path: Path) -> str:
    """The text of an error that a config file raised, with the line of the file if it has one."""
    if isinstance(error, ValueError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == path.resolve()]
    line = error.lineno if isinstance(error, SyntaxError) else [None, *lines][-1]
    return f"{type(error).__name__}{f' in line {line}' if line else ''}: {error}"


def _directory() -> Path:
    """The directory of the configs: inside the package if it was installed, beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"
