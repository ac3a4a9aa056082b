"""Argument checks that run before compilation. Traced values are not checked.

The fields of a frozen dataclass declare in their metadata what they accept, and the base class `Checked`
enforces it when an object is made:

    @dataclasses.dataclass(frozen=True)
    class Mine(Checked):
        eta: float = dataclasses.field(default=0.0, metadata=number("[0, 1]"))
        order: int = dataclasses.field(default=2, metadata=STATIC | choice(1, 2, 3))

Functions with array arguments call the `check_...` functions once, at the public entry.
"""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

_FLOATS = (np.dtype("float16"), np.dtype(jax.numpy.bfloat16), np.dtype("float32"), np.dtype("float64"))
_FLOAT32_MAX = float(np.finfo(np.float32).max)

# Marks a field that is part of the pytree's structure: jit compiles once for each of its values.
STATIC: dict[str, Any] = {"static": True}


@dataclasses.dataclass(frozen=True)
class Checked:
    """Base of the frozen dataclasses whose fields are checked when an object is made.

    A field with a constraint in its metadata (`number`, `integer`, `choice`, `instance`) is checked and
    converted by it. Raises ValueError in one line that names the field.
    """

    def __post_init__(self):
        check_fields(self)


def check_fields(value: Any, is_exempt: Callable[[Any], bool] = lambda field_value: False) -> None:
    """Checks and converts the fields of a dataclass that declare a constraint, except those that are exempt."""
    for field in dataclasses.fields(value):
        found = getattr(value, field.name)
        if "check" in field.metadata and not is_exempt(found):
            object.__setattr__(value, field.name, field.metadata["check"](field.name, found))


def number(interval: str = "(-inf, inf)") -> dict[str, Any]:
    """Field metadata: a number in `interval`, stored as a float.

    >>> number("(0, 1]")["check"]("quantile", 0.5)
    0.5
    """
    return {"check": lambda name, value: as_number(name, value, interval)}


def integer(low: int | None = 1, high: int | None = None) -> dict[str, Any]:
    """Field metadata: an integer from `low` to `high`; None leaves a side open.

    >>> integer(1)["check"]("steps", 50)
    50
    """
    return _constraint(lambda name, value: check_integer(name, value, low, high))


def integers(low: int | None = 1, high: int | None = None, length: int | None = None) -> dict[str, Any]:
    """Field metadata: a tuple of `length` integers (None: one or more), each from `low` to `high`.

    >>> integers(1)["check"]("channels", (8, 0))
    Traceback (most recent call last):
    ...
    ValueError: channels[1] = 0: must be an integer >= 1
    """

    def check(name: str, value: Any) -> Any:
        if not isinstance(value, tuple | list) or not value or len(value) != (length or len(value)):
            raise ValueError(f"{name} = {describe(value)}: must be {length or 'one or more'} integers")
        for i, item in enumerate(value):
            check_integer(f"{name}[{i}]", item, low, high)
        return tuple(value)

    return {"check": check}


def text(example: str) -> dict[str, Any]:
    """Field metadata: a string that is not empty, such as `example`.

    >>> text("images")["check"]("path", "")
    Traceback (most recent call last):
    ...
    ValueError: path = '': must be a string that is not empty, such as "images"
    """

    def check(name: str, value: Any) -> Any:
        if not isinstance(value, str) or not value:
            raise ValueError(f'{name} = {describe(value)}: must be a string that is not empty, such as "{example}"')
        return value

    return {"check": check}


def choice(*options: Any) -> dict[str, Any]:
    """Field metadata: one of the `options`, of the same type.

    >>> choice("small", "large")["check"]("variance", "small")
    'small'
    """
    names = _join([f'"{option}"' if isinstance(option, str) else str(option) for option in options])

    def check(name: str, value: Any) -> None:
        is_option = any(type(value) is type(option) and value == option for option in options)
        refuse_if((not is_option, f"{name} = {describe(value)}: must be {names}"))

    return _constraint(check)


def instance(kind: type, example: str) -> dict[str, Any]:
    """Field metadata: an object of the class `kind`, such as `example`.

    >>> instance(bool, "True")["check"]("clip", False)
    False
    """
    return _constraint(lambda name, value: check_instance(name, value, kind, example))


def _constraint(check: Callable[[str, Any], None]) -> dict[str, Any]:
    """Field metadata of a check that leaves the value unchanged."""

    def check_and_return(name: str, value: Any) -> Any:
        check(name, value)
        return value

    return {"check": check_and_return}


def refuse_if(*rules: tuple[Any, str], error: type[ValueError] = ValueError) -> None:
    """Raises `error` with the message of the first (condition, message) whose condition holds.

    >>> refuse_if((2 > 3, "2 is above 3"), (len("ab") != 2, "needs two letters"))
    """
    for condition, message in rules:
        if condition:
            raise error(message)


def check_integer(name: str, value: Any, low: int | None = 1, high: int | None = None) -> None:
    """Raises ValueError unless `value` is an integer from `low` to `high`; bool and float are rejected.

    A dimension that `jax.export` leaves symbolic passes.
    """
    if jax.export.is_symbolic_dim(value):
        return
    texts = {(1, 1): f" from {low} to {high}", (1, 0): f" >= {low}", (0, 1): f" <= {high}", (0, 0): ""}
    limits = texts[low is not None, high is not None]
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_integer or (low is not None and value < low) or (high is not None and value > high):
        raise ValueError(f"{name} = {describe(value)}: must be an integer{limits}")


def check_number(name: str, value: Any, interval: str = "(-inf, inf)") -> None:
    """Raises ValueError unless every element of `value`, a number or an array, lies in `interval`.

    NaN never does. A number beyond float32's range counts as infinite, which only an interval that is
    closed at infinity allows, such as "[0, inf]".

    >>> check_number("scale", [1.0, 7.5], "[0, inf)")
    """
    found = concrete(name, value)
    if found is None:
        return
    if isinstance(value, bool) or (found.dtype.kind not in "iub" and found.dtype not in _FLOATS):
        raise ValueError(f"{name} = {describe(value)}: must be a number")
    found, limits = found.astype(np.float64), _parse(interval)
    wrong = found[~limits.contains(found)]
    if wrong.size:
        raise ValueError(f"{name} = {float(wrong[0])}: must be {limits}")


def as_number(name: str, value: Any, interval: str = "(-inf, inf)") -> Any:
    """Returns `value` as a float; a traced value is returned unchanged.

    Raises ValueError as `check_number` does, and for an array.
    """
    check_number(name, value, interval)
    if np.ndim(value):
        raise ValueError(f"{name} has shape {np.shape(value)}: must be one number")
    return value if concrete(name, value) is None else float(value)


def check_instance(name: str, value: Any, kind: type, example: str) -> None:
    """Raises ValueError unless `value` is an object of the class `kind`, such as `example`."""
    if not isinstance(value, kind) and not (kind is bool and isinstance(value, np.bool_)):
        raise ValueError(f"{name} = {describe(value)}: must be of type {kind.__name__}, such as {example}")


def check_floats(name: str, value: Any) -> None:
    """Raises ValueError unless `value` is an array of finite floats."""
    found = concrete(name, value)
    dtype = getattr(value, "dtype", None) if found is None else found.dtype
    if dtype is not None and dtype not in _FLOATS:
        raise ValueError(f"{name} has dtype {dtype}: must be floats, images in [-1, 1]")
    if found is not None and not np.isfinite(found).all():
        raise ValueError(f"{name} has values that are not finite: must be finite floats")


def check_shape(name: str, value: Any, *shapes: tuple[int | str, ...]) -> None:
    """Raises ValueError unless `value` has one of the `shapes`.

    A string stands for a dimension of any size; a last "..." for one or more further dimensions.

    >>> check_shape("scale", 2.0, (), (3,))
    >>> check_shape("images", np.zeros((4, 4, 1)), ("B", "H", "W", "C"))
    Traceback (most recent call last):
    ...
    ValueError: images has shape (4, 4, 1): must be [B, H, W, C]
    """
    found = np.shape(value)
    if not any(_has_shape(found, shape) for shape in shapes):
        names = [f"[{', '.join(map(str, shape))}]" if shape else "one number" for shape in shapes]
        raise ValueError(f"{name} has shape {found}: must be {_join(names)}")


def concrete(name: str, value: Any) -> np.ndarray | None:
    """Returns `value` as a NumPy array, or None if a part of it is traced or held by another machine.

    Raises ValueError for a value that is not an array.
    """
    for leaf in jax.tree.leaves(value):
        if isinstance(leaf, jax.core.Tracer) or not getattr(leaf, "is_fully_addressable", True):
            return None
    try:
        return np.asarray(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} = {describe(value)}: must be numbers in rows of equal length") from None


def describe(value: Any) -> str:
    """Describes `value` in one line of at most 60 characters, for error messages."""
    if hasattr(value, "dtype") and np.ndim(value):
        return f"an array {value.dtype}{list(np.shape(value))}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


class _Interval(NamedTuple):
    low: float
    high: float
    low_open: bool
    high_open: bool

    def contains(self, x: np.ndarray) -> np.ndarray:
        x = np.where(np.abs(x) > _FLOAT32_MAX, np.copysign(np.inf, x), x)
        above = (x > self.low) if self.low_open else (x >= self.low)
        below = (x < self.high) if self.high_open else (x <= self.high)
        return above & below  # False for NaN

    def __str__(self) -> str:
        left, right = "(["[not self.low_open], ")]"[not self.high_open]
        if math.isfinite(self.low) and math.isfinite(self.high):
            return f"in {left}{self.low:g}, {self.high:g}{right}"
        limits = [f"{'>' if self.low_open else '>='} {self.low:g}"] if math.isfinite(self.low) else []
        limits += [f"{'<' if self.high_open else '<='} {self.high:g}"] if math.isfinite(self.high) else []
        closed = (self.high == math.inf and not self.high_open) or (self.low == -math.inf and not self.low_open)
        return " and ".join(limits + ([] if closed else ["finite"])) or "a number"


def _parse(interval: str) -> _Interval:
    """Reads an interval from its usual notation, such as "[0, 1)"."""
    match = re.fullmatch(r"([(\[])(.+), (.+)([)\]])", interval)
    assert match, interval
    return _Interval(float(match[2]), float(match[3]), match[1] == "(", match[4] == ")")


def _has_shape(found: tuple[int, ...], shape: tuple[int | str, ...]) -> bool:
    if shape[-1:] == ("...",):
        shape = shape[:-1]
        found = found[: len(shape)] if len(found) > len(shape) else ()
    return len(found) == len(shape) and all(
        isinstance(size, str) or n == size for n, size in zip(found, shape, strict=True)
    )


def _join(names: list[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
