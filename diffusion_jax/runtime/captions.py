"""Captions of images: a font that has their characters, and a readable form of those that no font has."""

import functools
import logging
import os
import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import ImageFont, features

from diffusion_jax.validation import compose, printable

__all__ = ["Caption", "choose_font", "readable"]

log = logging.getLogger(__name__)

# A font of the user's own, tried before those of the system.
VARIABLE = "DIFFUSION_JAX_FONT"
# Fonts of Linux, macOS and Windows by the names of their files. None has coloured glyphs only, which have one size.
FONTS = (
    *("DejaVuSans", "NotoSans-Regular", "NotoSansCJK-Regular", "NotoSansCJKsc-Regular", "wqy-microhei"),
    *("NotoSansArabic-Regular", "NotoSansHebrew-Regular", "NotoSansDevanagari-Regular", "NotoSansThai-Regular"),
    *("NotoSansSymbols2-Regular", "NotoEmoji-Regular", "NotoEmoji-VariableFont_wght"),
    *("Arial Unicode", "PingFang", "AppleSDGothicNeo"),
    *("arial.ttf", "msyh.ttc", "msgothic.ttc", "malgun.ttf", "seguisym.ttf", "seguiemj.ttf"),
)

_SIZE, _HEIGHT, _GAP = 11, 14, 2
_LONGEST = 60  # characters: 350 pixels of Latin letters
_UNASSIGNED = "\U0010ffff"
# Other characters of category Cf and the variants of emoji only choose between glyphs, and few fonts have them.
_JOINERS = "\u200c\u200d" if features.check("raqm") else ""
_VARIANTS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")

_told: set[str] = set()  # what this process has warned of
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class Caption(NamedTuple):
    """One line of text and its font."""

    text: str
    font: _Font

    @property
    def width(self) -> int:
        """Pixels with a gap on both sides; 0 for an empty text."""
        return int(np.ceil(self.font.getlength(self.text))) + 2 * _GAP if self.text else 0

    @property
    def rise(self) -> int:
        """Pixels above the font's own height, as of accents on accents."""
        return max(0, -int(self._box[1]))

    @property
    def height(self) -> int:
        """Pixels from the highest to the lowest, at least those of the default font; 0 for an empty text."""
        return max(_HEIGHT, int(np.ceil(self._box[3])) + self.rise) if self.text else 0

    @property
    def _box(self) -> tuple[float, float, float, float]:
        return self.font.getbbox(self.text)


def readable(texts: Sequence[str]) -> list[str]:
    """Captions in one line of at most 60 characters each; a character that no font has becomes its number, U+732B.

    The two ways to write an accent become one, and control characters are written out. One warning names the characters
    that are missing.

    >>> readable(["cat", "two\\nlines", "e\\u0301"])
    ['cat', 'two lines', 'é']
    """
    cleaned = [_clean(text) for text in texts]
    _warn_missing({character for text in cleaned for character in _find_missing(_best_font(text), text)})
    return [_cut(choose_font(text).text) for text in cleaned]


def choose_font(text: str) -> Caption:
    """The text in the first font that has all of its characters: Pillow's own, the one that `VARIABLE` names, `FONTS`.

    >>> choose_font("cat").font.getname()[0]
    'Aileron'
    """
    name = _best_font(text)
    missing = _find_missing(name, text)
    written = "".join(f" U+{ord(character):04X} " if character in missing else character for character in text)
    return Caption(written if not missing else re.sub(" {2,}", " ", written).strip(), _open_font(name, _SIZE))


def _clean(text: str) -> str:
    text = re.sub(r"[\t\n\v\f\r\x1c-\x1f\x85\u2028\u2029]+", " ", compose(text))
    text = _VARIANTS.sub("", text)
    kept = (character for character in text if character in _JOINERS or unicodedata.category(character) != "Cf")
    return printable("".join(kept))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3].rstrip()}..."


def _best_font(text: str) -> str:
    """The name of the font that lacks the fewest characters of a text; "" is Pillow's own."""
    best = ""
    for name in _names() if not text.isascii() else ():
        if len(_find_missing(name, text)) < len(_find_missing(best, text)):
            best = name
        if not _find_missing(best, text):
            break
    return best


def _names() -> Iterator[str]:
    own = os.environ.get(VARIABLE, "")
    if own and _open_font(own, _SIZE) is None:
        _warn_once(f"{VARIABLE} = {own}: cannot be opened as a font; set it to a .ttf, .otf or .ttc file with outlines")
    yield from (name for name in (own, *FONTS) if name and _open_font(name, _SIZE) is not None)


def _find_missing(name: str, text: str) -> set[str]:
    """The characters of a text that a font does not have."""
    return {character for character in text if not character.isspace() and not _has_glyph(name, character)}


@functools.cache
def _has_glyph(name: str, character: str) -> bool:
    """Whether a font has a character: an unassigned one is drawn as a box, or as nothing."""
    font = _open_unshaped(name)
    if font is None:
        return character.isascii()
    drawn, box = ((font.getlength(text), bytes(font.getmask(text))) for text in (character, _UNASSIGNED))
    return drawn != box


@functools.cache
def _open_unshaped(name: str) -> ImageFont.FreeTypeFont | None:
    """A font in large, with one glyph for each character; None if Pillow was built without FreeType."""
    font = _open_font(name, 64)
    is_outline = isinstance(font, ImageFont.FreeTypeFont)
    return font.font_variant(layout_engine=ImageFont.Layout.BASIC) if is_outline else None


@functools.cache
def _open_font(name: str, size: int) -> Any:
    """A font by the name of its file, "" for Pillow's own; None if it is missing or has no outlines."""
    try:
        return ImageFont.truetype(name, size) if name else ImageFont.load_default(size)
    except (OSError, ValueError):
        return None


def _warn_missing(characters: Collection[str]) -> None:
    """Warns of characters that it has not warned of before."""
    if new := sorted(set(characters) - _told):
        _told.update(new)
        listed = ", ".join(f'"{character}" U+{ord(character):04X}' for character in new[:10]) + ", ..." * (
            len(new) > 10
        )
        log.warning(
            "captions: no font has %s, written as numbers; install Noto Sans (fonts-noto-core, fonts-noto-cjk), or set "
            "%s to a font file",
            listed,
            VARIABLE,
        )


def _warn_once(text: str) -> None:
    if text not in _told:
        _told.add(text)
        log.warning("%s", text)
