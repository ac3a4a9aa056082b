"""What the commands share: their flags, looked at before any work is done."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def numbers(flag: str, texts: Sequence[str], kind: type) -> list:
    """The numbers, of `kind` int or float, of a list flag. Raises ValueError for none and for others."""
    what = "whole numbers, such as 3,5" if kind is int else "numbers, such as 0,1,2"
    if not texts:
        raise ValueError(f"--{flag} is empty: give {what}")
    try:
        return [kind(text) for text in texts]
    except ValueError:
        raise ValueError(f"--{flag} {','.join(texts)}: give {what}") from None


def given(values: Mapping[str, Any], meaningful: Iterable[str], what: str) -> dict[str, Any]:
    """The flags that are not None. Raises ValueError for one that has no meaning with `what`."""
    found = {name: value for name, value in values.items() if value is not None}
    for name in sorted(set(found) - set(meaningful)):
        raise ValueError(f"--{name}: has no meaning with {what}; leave it out")
    return found


def no_more(arguments: Sequence[str]) -> None:
    """Raises ValueError where words are left over that no flag has taken."""
    if arguments:
        raise ValueError(
            f'"{arguments[0]}": is no flag; write --flag=value, --noflag for off, and lists without spaces'
        )


def free_path(out: str, endings: Sequence[str]) -> Path:
    """--out as a path, if it has one of the `endings`, "" for a folder, and can be written anew.

    Raises ValueError for another ending, a folder where a file is meant, and a folder that holds files.
    """
    path = Path(out)
    if path.suffix.lower() not in endings:
        files = " or ".join(ending for ending in endings if ending)
        folder = ", or none for a folder" * ("" in endings)
        raise ValueError(f"--out {path}: the ending must be {files}{folder}")
    if path == Path() or (path.suffix and path.is_dir()):
        raise ValueError(f"--out {path}: is a folder; name a file, or a new folder")
    if not path.suffix and path.is_dir() and any(path.iterdir()):
        raise ValueError(f"--out {path}: holds files already; name a new folder")
    return path


def spared(out: Path, inputs: Iterable[str]) -> None:
    """Raises ValueError where --out is one of the files that are read."""
    for path in inputs:
        if out.exists() and Path(path).exists() and out.samefile(path):
            raise ValueError(f"--out {out}: is one of the pictures given; name another file")


def classes(texts: Sequence[str], names: Sequence[str], n: int) -> np.ndarray | None:
    """One class a picture, int [n], from --labels, numbers or `names`, in turn; None for "none"."""
    if [text.lower() for text in texts] == ["none"]:
        return None
    if len(texts) > n:
        raise ValueError(f"--labels {','.join(texts)}: {len(texts)} classes for {n} pictures; leave some out")
    number = {name: str(i) for i, name in enumerate(names)}
    return np.resize(numbers("labels", [number.get(text, text) for text in texts], int), n)
