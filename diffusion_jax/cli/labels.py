"""The flag --labels: classes by number or name.

3            the number 3, or the class named "3"; refused if these are two classes
"3"          the class of this name, also if the name has a comma; "" stands for " inside
#3           the number 3, whatever the names are
none, #none  no class
"""

import difflib
import re
import unicodedata
from collections.abc import Sequence

import numpy as np

_ITEM = re.compile(r'\s*(?:"((?:[^"]|"")*)"|((?:[^,"][^,]*)?))\s*,')
_LISTED = 10


def parse_labels(text: str, class_names: Sequence[str], num_classes: int) -> list[int] | None:
    """--labels as classes; None for "none". Raises ValueError, which lists the classes, if a part is not a class.

    >>> parse_labels("dog,2", ["cat", "dog", "owl"], 3)
    [1, 2]
    >>> parse_labels("dgo", ["cat", "dog", "owl"], 3)
    Traceback (most recent call last):
    ...
    ValueError: --labels=dgo: must be a number from 0 to 2 or one of "dog", "owl", "cat"
    """
    if _is_none(text, class_names):
        return None
    if not num_classes:
        raise ValueError(f"--labels={text}: this run was trained without classes; leave the flag out")
    return [_find_class(name, is_quoted, class_names, num_classes) for name, is_quoted in _split_list(text)]


def repeat_labels(labels: Sequence[int], n: int) -> np.ndarray:
    """One class per image, int [n], from `labels` in turn. Raises ValueError if there are more than n.

    >>> repeat_labels([3, 5], 5).tolist()
    [3, 5, 3, 5, 3]
    """
    if len(labels) > n:
        raise ValueError(f"--labels={','.join(map(str, labels))}: {len(labels)} classes for {n} images; leave some out")
    return np.resize(labels, n)


def _is_none(text: str, class_names: Sequence[str]) -> bool:
    word = text.strip().lower()
    if word != "none":
        return word == "#none"
    for name in class_names:
        if name.lower() == "none":
            raise ValueError(f'--labels={text}: is a class too; write "{name}" in quotes for it, or #none for no class')
    return True


def _split_list(text: str) -> list[tuple[str, bool]]:
    """The parts of a list separated by commas, and whether each is in quotes."""
    parts: list[tuple[str, bool]] = []
    rest = f"{text},"
    while rest:
        match = _ITEM.match(rest)
        if not match:
            raise ValueError(f'--labels={text}: must be numbers or names separated by commas, quotes as in 3,"a, b"')
        quoted, plain = match.groups()
        parts.append((plain.strip(), False) if quoted is None else (quoted.replace('""', '"'), True))
        rest = rest[match.end() :]
    return parts


def _find_class(text: str, is_quoted: bool, class_names: Sequence[str], num_classes: int) -> int:
    from diffusion_jax.validation import compose  # imports JAX, for which --help need not wait

    number = None if is_quoted else re.fullmatch("(#?)([0-9]+)", text)
    by_number = {int(number[2])} & {*range(num_classes)} if number else set()
    by_name = {i for i, name in enumerate(class_names) if compose(name) == compose(text)}
    found = by_number if number and number[1] else by_number | by_name
    if not found:
        raise ValueError(f"--labels={text}: must be {_list_classes(text, class_names, num_classes)}")
    if len(found) > 1:
        numbers = " or ".join(f"#{i}" for i in sorted(found))
        quotes = f', or "{text}" in quotes for the name' if by_number and len(by_name) == 1 else ""
        raise ValueError(f"--labels={text}: means {len(found)} classes; write {numbers}{quotes}")
    return found.pop()


def _list_classes(text: str, class_names: Sequence[str], num_classes: int) -> str:
    """The classes to choose from, those first whose names are most like `text`."""
    numbers = f"a number from 0 to {num_classes - 1}"
    if not class_names:
        return f"{numbers}; the classes of this run have no names"
    similarity = lambda name: difflib.SequenceMatcher(None, _strip_accents(text), _strip_accents(name)).ratio()  # noqa: E731
    names = sorted(class_names, key=similarity, reverse=True)
    listed = ", ".join(f'"{name[:40]}"' for name in names[:_LISTED])
    return f"{numbers} or one of {listed}" + f", ... ({len(names)} in all)" * (len(names) > _LISTED)


def _strip_accents(name: str) -> str:
    """A name without case and accents."""
    decomposed = unicodedata.normalize("NFKD", name.casefold())
    return "".join(character for character in decomposed if not unicodedata.combining(character))
