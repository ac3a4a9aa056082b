"""Decoding one image file into pixels."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError

from diffusion_jax.data.sources.budget import Budget
from diffusion_jax.validation import Checked, choice, integer, integers

__all__ = ["VERSION", "Decoder", "ImageError"]

VERSION = 1  # of the decoded pixels: any change of them must increase it, so that caches are built again

_FORMATS = ("PNG", "JPEG", "WEBP")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
_MAX_PIXELS = 89_478_485  # Pillow warns of a decompression bomb above this

# All threads decode within this: a photo of 12 megapixels takes 0.1 GB, the largest transparent image 2 GB.
MEMORY = Budget(2**31)


class ImageError(ValueError):
    """An image file that cannot be used; the message is the reason."""


def _check_colour(name: str, value: Any) -> Any:
    try:
        opaque = len(ImageColor.getrgb(value)) == 3
    except ValueError:
        opaque = False
    if not opaque:
        raise ValueError(f'{name} = "{value}": must be the name of a colour such as "white", or #rrggbb')
    return value


@dataclasses.dataclass(frozen=True)
class Decoder(Checked):
    """Decodes an image file into uint8 [H, W, channels].

    EXIF orientation is honoured; of an animation the first frame is taken. Transparent parts show `background`.
    The resize is antialiased (a Lanczos kernel, widened by the factor of the reduction).

    Attributes:
      size: (H, W).
      channels: 3, or 1 for grey (luma of ITU-R 601).
      crop: "center" keeps the largest centred part with the aspect ratio of `size`; "squash" keeps everything.
      background: the name of a colour, or #rrggbb.
      max_pixels: an image with more pixels, according to its header, is not decoded.

    >>> decoder = Decoder((8, 8), channels=3, crop="center", background="white", max_pixels=10_000)
    >>> import io
    >>> file = io.BytesIO()
    >>> Image.new("RGB", (12, 10), "red").save(file, "PNG")
    >>> decoder(file)[0, 0].tolist()
    [255, 0, 0]
    """

    size: tuple[int, int] = dataclasses.field(metadata=integers(1, 4096, length=2))
    channels: int = dataclasses.field(metadata=choice(1, 3))
    crop: str = dataclasses.field(metadata=choice("center", "squash"))
    background: str = dataclasses.field(metadata={"check": _check_colour})
    max_pixels: int = dataclasses.field(metadata=integer(1, _MAX_PIXELS))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, channels)."""
        return (*self.size, self.channels)

    def __call__(self, path: Path) -> np.ndarray:
        """Returns the pixels of a file. Raises ImageError, or OSError if the disk is at fault."""
        try:
            with Image.open(path, formats=_FORMATS) as image:
                self._check_header(image)
                with MEMORY.hold(_decoded_bytes(image)):
                    return self._pixels(image)
        except (ImageError, MemoryError):
            raise
        except UnidentifiedImageError:
            raise ImageError("is not a PNG, JPEG or WebP file") from None
        except FileNotFoundError:
            raise ImageError("does not exist, or is a broken link") from None
        except Exception as error:  # decoders do not document what they raise for damaged files
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise ImageError(f"cannot be decoded ({' '.join(str(error).split())})") from error

    def _check_header(self, image: Image.Image) -> None:
        """Raises ImageError before anything has been decoded."""
        if image.width * image.height > self.max_pixels:
            raise ImageError(f"{image.width}x{image.height} is more than max_pixels = {self.max_pixels}")
        if image.mode not in _MODES:
            raise ImageError(f"mode {image.mode} is not 8-bit grey, RGB or palette")

    def _pixels(self, image: Image.Image) -> np.ndarray:
        ImageOps.exif_transpose(image, in_place=True)
        if image.has_transparency_data:
            canvas = Image.new("RGBA", image.size, self.background)
            canvas.alpha_composite(image.convert("RGBA"))
            image = canvas
        image = image.convert("L" if self.channels == 1 else "RGB")
        height, width = self.size
        image = image.resize((width, height), Image.Resampling.LANCZOS, box=self._box(*image.size))
        return np.asarray(image).reshape(self.image_shape)

    def _box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of the part that is kept."""
        if self.crop == "squash":
            return 0, 0, width, height
        scale = min(width / self.size[1], height / self.size[0])
        left, top = (width - scale * self.size[1]) / 2, (height - scale * self.size[0]) / 2
        return left, top, width - left, height - top


def _decoded_bytes(image: Image.Image) -> int:
    """The memory that decoding takes, from the header: measured, with all the copies on the way to the pixels."""
    per_pixel = 24 if image.format == "WEBP" or image.has_transparency_data else 8
    return per_pixel * image.width * image.height
