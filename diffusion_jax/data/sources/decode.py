"""One picture file as pixels."""

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError

VERSION = 1  # of the pixels that are made of a file: another makes old caches stale

_FORMATS = ("PNG", "JPEG", "WEBP")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
_MOST_PIXELS = 89_478_485  # Pillow's own limit, above which it warns of a decompression bomb


class PictureError(ValueError):
    """A picture that can't be used; the message is the reason."""


@dataclasses.dataclass(frozen=True)
class Decoder:
    """What is made of a picture file: uint8 [H, W, channels].

    EXIF orientation is honoured; of an animation the first picture is taken. What is transparent shows
    `background`. The resize is antialiased (Lanczos' kernel, widened by the factor of the reduction).

    Attributes:
      size: (H, W).
      channels: 3, or 1 for grey (luma of ITU-R 601).
      crop: "center" keeps the largest centred part that has the shape of `size`; "squash" keeps all.
      background: a colour's name or #rrggbb.
      max_pixels: a picture that says it has more is not decoded.

    Raises ValueError where a setting is none of these.
    """

    size: tuple[int, int]
    channels: int
    crop: str
    background: str
    max_pixels: int

    def __post_init__(self):
        if len(self.size) != 2 or not all(isinstance(n, int) and 1 <= n <= 4096 for n in self.size):
            raise ValueError(f"size = {self.size}: must be (height, width), each from 1 to 4096")
        if self.channels not in (1, 3):
            raise ValueError(f"channels = {self.channels}: must be 1 or 3")
        if self.crop not in ("center", "squash"):
            raise ValueError(f'crop = "{self.crop}": must be "center" or "squash"')
        if not _is_opaque_colour(self.background):
            raise ValueError(f'background = "{self.background}": must be a name such as "white", or #rrggbb')
        if not 1 <= self.max_pixels <= _MOST_PIXELS:
            raise ValueError(f"max_pixels = {self.max_pixels}: must be from 1 to {_MOST_PIXELS}")

    def __call__(self, path: Path) -> np.ndarray:
        """The pixels of a file. Raises PictureError, or OSError where the disk is at fault."""
        try:
            with Image.open(path, formats=_FORMATS) as image:
                self._check(image)
                return self._pixels(image)
        except (PictureError, MemoryError):
            raise
        except UnidentifiedImageError:
            raise PictureError("is no PNG, JPEG or WebP") from None
        except FileNotFoundError:
            raise PictureError("is not there, or a link that leads nowhere") from None
        except Exception as error:  # what decoders raise for a damaged file is not listed anywhere
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise PictureError(f"cannot be decoded ({' '.join(str(error).split())})") from error

    def _check(self, image: Image.Image) -> None:
        """Looks at the header only: nothing has been decoded yet."""
        if image.width * image.height > self.max_pixels:
            raise PictureError(f"{image.width}x{image.height} is more than max_pixels = {self.max_pixels}")
        if image.mode not in _MODES:
            raise PictureError(f"mode {image.mode} is neither 8-bit grey nor RGB nor palette")

    def _pixels(self, image: Image.Image) -> np.ndarray:
        ImageOps.exif_transpose(image, in_place=True)
        if image.has_transparency_data:
            canvas = Image.new("RGBA", image.size, self.background)
            canvas.alpha_composite(image.convert("RGBA"))
            image = canvas
        image = image.convert("L" if self.channels == 1 else "RGB")
        height, width = self.size
        image = image.resize((width, height), Image.Resampling.LANCZOS, box=self._box(*image.size))
        return np.asarray(image).reshape(height, width, self.channels)

    def _box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of what is kept."""
        if self.crop == "squash":
            return 0, 0, width, height
        scale = min(width / self.size[1], height / self.size[0])
        left, top = (width - scale * self.size[1]) / 2, (height - scale * self.size[0]) / 2
        return left, top, width - left, height - top


def _is_opaque_colour(name: str) -> bool:
    try:
        return len(ImageColor.getrgb(name)) == 3
    except ValueError:
        return False
