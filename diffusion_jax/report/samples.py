"""The grids of samples that a run has drawn."""

import io
import re
import warnings
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from PIL import Image, UnidentifiedImageError

from diffusion_jax.report.files import Note, noted, read_file
from diffusion_jax.runtime.place import Place

__all__ = ["SampleGrid", "choose_evenly", "read_grids"]

_MOST_BYTES = 2**25

Item = TypeVar("Item")


class SampleGrid(NamedTuple):
    """A grid of samples, a PNG file of `size` (width, height)."""

    step: int
    png: bytes
    size: tuple[int, int]


def read_grids(workdir: Place, most: int, note: Note) -> list[SampleGrid]:
    """At most `most` grids in the order of their steps, chosen as by `choose_evenly`."""
    found: list[SampleGrid] = []
    with noted("samples", note):
        files = _grid_files(workdir / "samples")
        chosen = choose_evenly(sorted(files), most)
        if len(chosen) < len(files):
            note(f"{len(chosen)} of {len(files)} grids of samples are shown, evenly spaced")
        for step in chosen:
            with noted(f"samples/{files[step].name}", note):
                found.append(_read_grid(step, files[step]))
    return found


def choose_evenly(items: Sequence[Item], most: int) -> list[Item]:
    """At most `most` of the items, evenly spaced, the last and, if most > 1, the first included.

    >>> choose_evenly(range(0, 100, 10), 4)
    [0, 30, 60, 90]
    """
    if len(items) <= most:
        return list(items)
    if most == 1:
        return [items[-1]]
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _grid_files(directory: Place) -> dict[int, Place]:
    if not directory.is_dir():
        return {}
    names = {path: re.fullmatch(r"step_([0-9]{1,15})\.png", path.name) for path in directory.iterdir()}
    return {int(match[1]): path for path, match in names.items() if match}


def _read_grid(step: int, path: Place) -> SampleGrid:
    """Raises an error of one line unless the file is a whole PNG image of a size that a browser can show."""
    data = read_file(path)
    if data is None:
        raise ValueError("it is not a file")
    if len(data) > _MOST_BYTES:
        raise ValueError(f"it has more than {_MOST_BYTES // 2**20} MiB")
    return SampleGrid(step, data, _decode_size(data))


def _decode_size(data: bytes) -> tuple[int, int]:
    """Decodes an image, so that damage anywhere in it is noticed, and returns its size."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
                image.load()
                return image.size
        except UnidentifiedImageError:
            raise ValueError("it is no PNG image") from None  # Pillow names the buffer
