"""Reads the image files that a command edits."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffusion_jax.data.sources.decode import Decoder
from diffusion_jax.data.sources.formats import ImageError, Unsuitable
from diffusion_jax.process.pixels import to_float
from diffusion_jax.validation import local_path

log = logging.getLogger(__name__)

_MAX_PIXELS = 64_000_000


@dataclasses.dataclass(frozen=True)
class _ExactDecoder(Decoder):
    """A `Decoder` that refuses images of another size instead of resizing them."""

    def _box(self, width, height):
        rows, columns = self.size
        if (height, width) != self.size:
            raise Unsuitable(f"is {width}x{height}, not {columns}x{rows} pixels; resize it, or use --resize")
        return super()._box(width, height)


def read_images(
    paths: Sequence[str],
    size: tuple[int, int],
    channels: int,
    resize: bool = False,
    crop: str = "center",
    background: str = "white",
) -> np.ndarray:
    """Reads image files of any format that `sources.Folder` reads, as float32 [N, *size, channels] in [-1, 1].

    With `resize`, images of another size are cropped and resized; `crop` and `background` are as in `sources.Folder`.
    Raises ValueError, naming the file, if a file cannot be read or has another size.

    >>> path = "digit.png"
    >>> read_images([path], (8, 8), 1, resize=True).shape  # doctest: +SKIP
    (1, 8, 8, 1)
    """
    decoder = (Decoder if resize else _ExactDecoder)(size, channels, crop, background, _MAX_PIXELS)
    return np.asarray(to_float(jnp.stack([_decode_file(decoder, path) for path in paths])))


def training_look(config: Mapping[str, Any]) -> dict[str, str]:
    """`crop` and `background` of the `Folder` that a run was trained on; empty for other data.

    >>> training_look({"data": {"name": "Folder", "path": "images", "crop": "squash"}})
    {'crop': 'squash'}
    """
    data = config.get("data", {})
    fields = data if data.get("name") == "Folder" else {}
    return {name: fields[name] for name in ("crop", "background") if name in fields}


def _decode_file(decoder: Decoder, path: str) -> np.ndarray:
    try:
        decoded = decoder(local_path("image", path))
    except IsADirectoryError:
        raise ValueError(f"{path} is a directory; name image files") from None
    except ImageError as error:
        raise ValueError(f"{path} {error}") from None
    for note in decoded.notes:
        log.warning("%s: %s", path, note)
    return decoded.pixels
