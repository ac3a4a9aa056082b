"""Images of any mode as 8-bit grey, palette or RGB, with or without transparency."""

import io
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageFile

from diffusion_jax.data.sources.formats import Unsuitable

__all__ = ["DAMAGED", "check_mode", "describe_depth", "to_eight_bits"]

DAMAGED = "damaged metadata, which were left out"

_PLAIN = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
_GREY_16 = ("I;16", "I;16L", "I;16B", "I;16N")
_CONVERTED = {"YCbCr": "RGB", "RGBX": "RGB", "RGBa": "RGBA", "La": "LA"}
_REFUSED = {
    "I": "32-bit integers, of which black and white are not known",
    "F": "floats, of which black and white are not known",
    "LAB": "CIE Lab",
}
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF
_WHITE_IS_ZERO, _SIGNED = 0, 2  # values of the last two
_DARK = 32  # of 255; 12 bits end at 16
_ROWS = 256  # that are scaled at a time, for the sake of memory


def check_mode(image: Image.Image) -> None:
    """Raises Unsuitable if the pixels of this mode have no certain meaning as grey or RGB."""
    if _SIGNED in _as_tuple(getattr(image, "tag_v2", {}).get(_SAMPLE_FORMAT)):
        raise Unsuitable("has signed integers, of which black and white are not known; save it as unsigned ones")
    if image.mode in (*_PLAIN, *_GREY_16, *_CONVERTED, "CMYK") or _is_png_16(image):
        return
    reason = _REFUSED.get(image.mode, "not grey, RGB, palette or CMYK")
    raise Unsuitable(f"has mode {image.mode} ({reason}); save it as 8-bit or 16-bit grey, or 8-bit RGB")


def describe_depth(image: ImageFile.ImageFile) -> tuple[str, ...]:
    """Returns a note if Pillow is about to reduce 16 bits per channel by itself; to be asked before it decodes."""
    if _is_grey_16(image):
        return ()
    deep = any(";16" in str(tile[3]) for tile in image.tile) or image.info.get("bit_depth", 8) > 8
    return ("more than 8 bits per channel, reduced to 8",) if deep else ()


def to_eight_bits(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """Returns a decoded image in a mode of 8 bits, and notes on what was converted.

    16-bit grey is scaled, v / 257. CMYK is converted through its ICC profile; without one, or with a damaged one, by
    the plain formula R = 255 - C - K.
    """
    if _is_grey_16(image):
        scaled = _scale_grey(image)
        return scaled, ("16-bit grey, scaled to 8 bits", *_describe_range(scaled))
    if image.mode == "CMYK":
        return _from_cmyk(image)
    if image.mode in _CONVERTED:
        return image.convert(_CONVERTED[image.mode]), (f"mode {image.mode}, converted to RGB",)
    return image, ()


def _is_png_16(image: Image.Image) -> bool:
    """Earlier versions of Pillow read 16-bit PNG files as 32-bit integers."""
    return image.mode == "I" and image.format == "PNG"


def _is_grey_16(image: Image.Image) -> bool:
    return image.mode in _GREY_16 or _is_png_16(image)


def _scale_grey(image: Image.Image) -> Image.Image:
    """16 bits, or 12 in a TIFF file that says so."""
    tags = getattr(image, "tag_v2", {})
    white = 2 ** min(16, *_as_tuple(tags.get(_BITS_PER_SAMPLE, 16))) - 1
    table = ((np.arange(2**16).clip(max=white) * 510 + white) // (2 * white)).astype(np.uint8)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # which Pillow heeds for 8 bits only
        table = 255 - table
    hidden = image.info.get("transparency")
    grey = np.empty((image.height, image.width), np.uint8)
    alpha = np.full_like(grey, 255)
    for top in range(0, image.height, _ROWS):
        bottom = min(top + _ROWS, image.height)
        values = np.asarray(image.crop((0, top, image.width, bottom)))
        grey[top:bottom] = table[values]
        if hidden is not None:
            alpha[top:bottom][values == hidden] = 0
    if hidden is None:
        return Image.fromarray(grey)
    return Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)])


def _describe_range(image: Image.Image) -> tuple[str, ...]:
    """A note on an image that is dark throughout: microscopes store 10 or 12 bits in 16."""
    if np.asarray(image.getchannel(0)).max() >= _DARK:
        return ()
    return ("16-bit grey that is nearly black; scale its brightest value to 65535 if it should not be",)


def _as_tuple(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple) else (value,)


def _from_cmyk(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    profile = image.info.get("icc_profile")
    if not profile:
        return image.convert("RGB"), ("CMYK without a profile, converted to RGB by the plain formula",)
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), "CMYK", "RGB")
        converted = transform.apply(image)
    except (OSError, ValueError, TypeError, ImageCms.PyCMSError):
        return image.convert("RGB"), (DAMAGED, "CMYK with a damaged profile, converted to RGB by the plain formula")
    return converted, ("CMYK, converted to RGB with its profile",)
