"""Paths as users write them: `~` is the home directory, and an address such as gs://bucket is not a path."""

import os
import re
from pathlib import Path
from typing import Any

from diffusion_jax.validation.printing import printable

__all__ = ["find_address", "local_path"]


def find_address(text: str) -> tuple[str, str] | None:
    """The scheme of an address and what follows it; None for a path.

    >>> find_address("gs://bucket/run"), find_address("runs/digits")
    (('gs', 'bucket/run'), None)
    """
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):/+", text)
    return (found[1], text[found.end() :]) if found else None


def local_path(name: str, value: Any) -> Path:
    """Returns `value` as a path of this machine, with `~` expanded.

    Raises ValueError if it is empty, an address such as gs://bucket/run, or starts at an unknown home directory.

    >>> local_path("workdir", "runs/digits").name
    'digits'
    >>> local_path("workdir", "gs://bucket/run")
    Traceback (most recent call last):
    ...
    ValueError: workdir = gs://bucket/run: must be a path of this machine; mount the bucket (gcsfuse) and use its path
    """
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise ValueError(f"{name} = {value!r}: must be a path")
    text = os.fspath(value)
    if find_address(text):
        raise ValueError(
            f"{name} = {printable(text)}: must be a path of this machine; mount the bucket (gcsfuse) and use its path"
        )
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"{name} = {printable(text)}: there is no such home directory; write the whole path") from None
