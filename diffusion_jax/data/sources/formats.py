"""The image formats that are read. No other decoder of Pillow ever runs."""

import functools
from types import ModuleType
from typing import BinaryIO

from PIL import Image, ImageFile, UnidentifiedImageError, features

__all__ = ["ImageError", "Unsuitable", "explain_missing", "make_format_stamp", "open_image", "read_suffixes"]

# name -> (formats of Pillow, endings). A phone's MPO is a JPEG to Pillow, a bitmap without file header a DIB.
_FORMATS = {
    "PNG": (("PNG",), (".png", ".apng")),
    "JPEG": (("JPEG",), (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")),
    "WebP": (("WEBP",), (".webp",)),
    "BMP": (("BMP", "DIB"), (".bmp", ".dib")),
    "TIFF": (("TIFF",), (".tif", ".tiff")),
    "GIF": (("GIF",), (".gif",)),
    "AVIF": (("AVIF",), (".avif",)),
    "HEIC": ((), (".heic", ".heif", ".hif")),
}
_REMEDIES = {
    "AVIF": "this Pillow is built without it; pip install --upgrade Pillow",
    "HEIC": 'pip install "diffusion_jax[heic]"',
}
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


class ImageError(ValueError):
    """An image file that cannot be used; the message is the reason."""


class Unsuitable(ImageError):
    """An image that is refused whatever its metadata say."""


def read_suffixes() -> tuple[str, ...]:
    """Returns the endings of the files that can be read here, in lower case."""
    return tuple(suffix for name in _available() for suffix in _FORMATS[name][1])


def explain_missing(suffixes: set[str]) -> str:
    """Returns what must be installed to read files with these endings; "" if that does not help.

    >>> explain_missing({".txt"})
    ''
    """
    missing = {name: _FORMATS[name][1] for name in _REMEDIES if name not in _available()}
    return "".join(f"; for {name}: {_REMEDIES[name]}" for name, endings in missing.items() if suffixes & set(endings))


def make_format_stamp() -> str:
    """Returns a text that changes when more formats, or fewer, can be read."""
    return " ".join(_available())


def open_image(file: BinaryIO) -> ImageFile.ImageFile:
    """Returns an image, of which only the header has been read. The content decides on the format, not the name.

    Raises ImageError if the format is not among those that are read.
    """
    names = [name for formats in _available() for name in _FORMATS[formats][0]]
    try:
        return Image.open(file, formats=names)
    except UnidentifiedImageError:
        file.seek(0)
        start = file.read(12)
        file.seek(0)
        if not start:
            raise Unsuitable("is empty") from None
        if start[4:8] == b"ftyp" and start[8:12] in _HEIC_BRANDS:
            return _open_heic(file)
        formats = " or ".join(", ".join(_available()).rsplit(", ", 1))
        raise ImageError(f"is not a {formats} file, or a damaged or rare one") from None


def _open_heic(file: BinaryIO) -> ImageFile.ImageFile:
    """Pillow's list of formats, which is the whole process's, stays as it is."""
    if (heif := _heif()) is None:
        raise Unsuitable(f"is a HEIC file; {_REMEDIES['HEIC']}")
    return heif.HeifImageFile(file)


@functools.cache
def _heif() -> ModuleType | None:
    try:
        import pillow_heif
    except ImportError:
        return None
    return pillow_heif


def _available() -> list[str]:
    absent = {"AVIF": not features.check("avif"), "HEIC": _heif() is None}
    return [name for name in _FORMATS if not absent.get(name)]
