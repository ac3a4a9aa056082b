"""Text of users: shown in a terminal, and compared."""

import unicodedata

__all__ = ["compose", "printable"]

_CATEGORIES = ("Cc", "Cs", "Zl", "Zp")  # control characters, lone surrogates, separators of lines and paragraphs
_DIRECTIONS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def printable(text: str) -> str:
    r"""Returns `text` in one line that a terminal shows as it is.

    Escapes line breaks, control characters (those of ANSI sequences too), characters that change the direction of
    writing, and lone surrogates, as in Python: a file's name can then neither colour, overwrite nor reorder a message.

    >>> print(printable("cat\x1b[31m\n.png"))
    cat\x1b[31m\n.png
    """
    return "".join(_escape(character) if _is_unsafe(character) else character for character in text)


def _is_unsafe(character: str) -> bool:
    return unicodedata.category(character) in _CATEGORIES or character in _DIRECTIONS


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def compose(text: str) -> str:
    r"""Composes accents (Unicode's NFC): systems, files and tables write them in either form.

    >>> compose("cafe\u0301") == "caf\u00e9"
    True
    """
    return unicodedata.normalize("NFC", text)
