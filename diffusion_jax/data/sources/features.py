"""The classes that a TFDS dataset on disk asks for: checked, because TFDS imports whatever module they name."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffusion_jax.data.sources.checks import DataError
from diffusion_jax.validation import describe

__all__ = ["check_features"]

_KEYS = ("pythonClassName", "python_class_name", "type")  # the last in files of older versions


def check_features(directory: Path) -> None:
    """Raises DataError if a features.json below `directory` names a class that is not a part of TFDS."""
    for path in sorted(directory.rglob("features.json")):
        for name in _class_names(_read_json(path)):
            if not name.startswith("tensorflow_datasets."):
                found = f"names the class {describe(name)}, which would be imported"
                raise DataError(f"{path}: {found}; use only features of TFDS")


def _read_json(path: Path) -> Any:
    """The content; None if it is damaged, which keeps TFDS from reading it too."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _class_names(tree: Any) -> Iterator[str]:
    waiting = [tree]
    while waiting:
        inside = waiting.pop()
        if isinstance(inside, dict):
            yield from (inside[key] for key in _KEYS if isinstance(inside.get(key), str))
            waiting += inside.values()
        elif isinstance(inside, list):
            waiting += inside
