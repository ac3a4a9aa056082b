"""Decoding one image file into pixels."""

import contextlib
import dataclasses
import io
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageColor, ImageFile

from diffusion_jax.data.sources.budget import Budget
from diffusion_jax.data.sources.formats import ImageError, Unsuitable, open_image
from diffusion_jax.data.sources.metadata import is_whole_exif, strip_metadata
from diffusion_jax.data.sources.modes import DAMAGED, check_mode, describe_depth, to_eight_bits
from diffusion_jax.validation import Checked, choice, integer, integers

__all__ = ["VERSION", "Decoded", "Decoder"]

VERSION = 2  # of the decoded pixels: any change of them must increase it, so that caches are built again

_MAX_PIXELS = 89_478_485  # Pillow warns of a decompression bomb above this
_MAX_STRIPPED = 2**28  # bytes of a file that is read whole to leave out its metadata
_TIFF_TILE = (322, 323)  # width and height

_LARGE_DECODERS = ("WEBP", "AVIF", "HEIF", "GIF")  # take up to 24 bytes per pixel

# All threads decode within this: a photo of 12 megapixels takes 0.1 GB, the largest transparent image 2 GB.
MEMORY = Budget(2**31)


def _check_colour(name: str, value: Any) -> Any:
    try:
        opaque = len(ImageColor.getrgb(value)) == 3
    except ValueError:
        opaque = False
    if not opaque:
        raise ValueError(f'{name} = "{value}": must be the name of a colour such as "white", or #rrggbb')
    return value


@dataclasses.dataclass(frozen=True, eq=False)
class Decoded:
    """Pixels, and what a user should know about the file.

    Attributes:
      pixels: uint8 [H, W, channels].
      notes: what was converted, reduced or left out, such as "16-bit grey, scaled to 8 bits".
    """

    pixels: np.ndarray
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Decoder(Checked):
    """Decodes an image file into uint8 [H, W, channels].

    EXIF orientation is honoured; of an animation the first frame is taken. Transparent parts show `background`.
    The resize is antialiased (a Lanczos kernel, widened by the factor of the reduction). Damaged metadata are left
    out; damaged pixels are an error.

    Attributes:
      size: (H, W).
      channels: 3, or 1 for grey (luma of ITU-R 601).
      crop: "center" keeps the largest centred part with the aspect ratio of `size`; "squash" keeps everything.
      background: the name of a colour, or #rrggbb.
      max_pixels: an image with more pixels, according to its header, is not decoded.

    >>> decoder = Decoder((8, 8), channels=3, crop="center", background="white", max_pixels=10_000)
    >>> path = Path("red.png")
    >>> Image.new("RGB", (12, 10), "red").save(path)
    >>> decoder(path).pixels[0, 0].tolist()
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

    def __call__(self, path: Path) -> Decoded:
        """Returns the pixels of a file. Raises ImageError, or OSError if the disk is at fault."""
        try:
            with path.open("rb") as file:
                try:
                    return self._decode(file)
                except (MemoryError, Unsuitable, Image.DecompressionBombError):
                    raise
                except Exception:  # decoders do not document what they raise for damaged files
                    if (decoded := self._decode_stripped(file)) is None:
                        raise
                    return decoded
        except (ImageError, MemoryError):
            raise
        except FileNotFoundError:
            raise ImageError("does not exist, or is a broken link") from None
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise ImageError(f"cannot be decoded ({' '.join(str(error).split())})") from error

    def _decode(self, file: BinaryIO, held: int = 0) -> Decoded:
        """`held` bytes are in use already."""
        with open_image(file) as image:
            self._check_header(image)
            with MEMORY.hold(held + _decoded_bytes(image)):
                return self._pixels(image)

    def _decode_stripped(self, file: BinaryIO) -> Decoded | None:
        """What the file gives without its metadata; None if they are not what is damaged."""
        if file.seek(0, io.SEEK_END) > _MAX_STRIPPED:
            return None
        file.seek(0)
        for data in strip_metadata(file.read()):
            with contextlib.suppress(Exception):
                decoded = self._decode(io.BytesIO(data), held=2 * len(data))
                return Decoded(decoded.pixels, _unique(DAMAGED, *decoded.notes))
        return None

    def _check_header(self, image: Image.Image) -> None:
        """Raises ImageError before anything has been decoded."""
        if image.width * image.height > self.max_pixels:
            raise Unsuitable(f"{image.width}x{image.height} is more than max_pixels = {self.max_pixels}")
        width, height = (getattr(image, "tag_v2", {}).get(tag, 0) for tag in _TIFF_TILE)
        if width * height > max(self.max_pixels, 2**24):
            raise Unsuitable(f"has tiles of {width}x{height}, more than max_pixels = {self.max_pixels}")
        check_mode(image)

    def _pixels(self, image: ImageFile.ImageFile) -> Decoded:
        notes = [*describe_depth(image), *_describe_frames(image)]
        part = image.tile[0][1] if image.format == "GIF" and image.tile else None
        image.load()
        if image.info.get("icc_profile", b"") is None:  # Pillow could not read it
            notes.append(DAMAGED)
        turn, damage = _read_turn(image)
        shown, converted = to_eight_bits(image)
        flat = self._flatten(_clear_outside(shown, part))
        pixels = self._resize(flat if turn is None else flat.transpose(turn))
        return Decoded(pixels, _unique(*notes, *damage, *converted))

    def _flatten(self, image: Image.Image) -> Image.Image:
        if image.has_transparency_data:
            canvas = Image.new("RGBA", image.size, self.background)
            canvas.alpha_composite(image.convert("RGBA"))
            image = canvas
        return image.convert("L" if self.channels == 1 else "RGB")

    def _resize(self, image: Image.Image) -> np.ndarray:
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


def _unique(*notes: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(notes))


def _describe_frames(image: Image.Image) -> tuple[str, ...]:
    """The second image of a phone's MPO file is a preview or a depth map, and not told."""
    with contextlib.suppress(Exception):  # a damaged second frame
        if image.format != "MPO" and getattr(image, "is_animated", False):
            return ("several frames or pages, of which the first is used",)
    return ()


def _read_turn(image: Image.Image) -> tuple[Image.Transpose | None, tuple[str, ...]]:
    """How the image must be turned to stand upright, and a note if that cannot be read."""
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
        whole = is_whole_exif(image.info.get("exif") or b"")
    except Exception:
        turn, whole = None, False
    return turn, () if whole else (DAMAGED,)


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _clear_outside(image: Image.Image, part: tuple[int, int, int, int] | None) -> Image.Image:
    """Makes what a GIF's first frame leaves out of its canvas transparent, as browsers show it."""
    if part in (None, (0, 0, *image.size)):
        return image
    canvas = Image.new("RGBA", image.size)
    canvas.paste(image.convert("RGBA").crop(part), part)
    return canvas


def _decoded_bytes(image: Image.Image) -> int:
    """The memory that decoding takes, from the header: measured, with all the copies on the way to the pixels."""
    per_pixel = 16 if image.mode == "CMYK" else 12
    if image.format in _LARGE_DECODERS or image.has_transparency_data:
        per_pixel = 24
    return per_pixel * image.width * image.height
