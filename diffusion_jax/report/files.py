"""Reads the files of a run that may still be training, whose files may be missing, damaged or somebody else's."""

import contextlib
from collections.abc import Callable, Iterator

from diffusion_jax.runtime.errors import first_line
from diffusion_jax.runtime.place import Place

__all__ = ["Note", "noted", "read_file"]

# Takes a sentence about a file that cannot be used; the page shows it.
Note = Callable[[str], None]


@contextlib.contextmanager
def noted(name: str, note: Note) -> Iterator[None]:
    """Turns an error inside the block into a note about the file `name`: no file is worth the report.

    >>> with noted("config.json", print):
    ...     raise ValueError("no JSON")
    config.json cannot be used (no JSON)
    """
    try:
        yield
    except Exception as error:  # a file's text reaches parsers of several packages, with errors of their own
        note(f"{name} cannot be used ({first_line(error)})")


def read_file(path: Place) -> bytes | None:
    """The content of a file, None if there is no such file. Opens nothing that may block, such as a named pipe."""
    return path.read_bytes() if path.is_file() else None
