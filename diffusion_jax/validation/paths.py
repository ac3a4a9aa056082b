"""Paths as users write them: `~` is the home directory, and an address such as gs://bucket is not a path."""

import os
import re
from pathlib import Path
from typing import Any

__all__ = ["local_path"]


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
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/+", text):
        raise ValueError(
            f"{name} = {text}: must be a path of this machine; mount the bucket (gcsfuse) and use its path"
        )
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"{name} = {text}: there is no such home directory; write the whole path") from None
