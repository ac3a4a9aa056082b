"""The pictures that a command is given."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from diffusion_jax.data.sources.decode import Decoder, ImageError
from diffusion_jax.process.pixels import to_float

_MAX_PIXELS = 64_000_000


@dataclasses.dataclass(frozen=True)
class _Exact(Decoder):
    """Refuses a picture of another size, where a `Decoder` resizes it."""

    def _box(self, width, height):
        if (height, width) != self.size:
            raise ImageError(
                f"is {width}x{height}, not {self.size[1]}x{self.size[0]} pixels; resize it, or give --resize"
            )
        return super()._box(width, height)


def read(
    paths: Sequence[str],
    size: tuple[int, int],
    channels: int,
    resize: bool,
    crop: str = "center",
    background: str = "white",
) -> np.ndarray:
    """PNG, JPEG or WebP files as float32 [N, *size, channels] in [-1, 1].

    With `resize` pictures of another size are brought to it, `crop` and `background` as in `sources.Folder`.
    Raises ValueError, naming the file, where one cannot be read or is of another size.
    """
    decoder = (Decoder if resize else _Exact)(size, channels, crop, background, _MAX_PIXELS)
    return np.asarray(to_float(jnp.stack([_decoded(decoder, path) for path in paths])))


def _decoded(decoder: Decoder, path: str) -> np.ndarray:
    try:
        return decoder(Path(path))
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder; name pictures") from None
    except ImageError as error:
        raise ValueError(f"{path} {error}") from None
