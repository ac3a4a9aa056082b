"""Constraints that the fields of a frozen dataclass, or the arguments of a function, declare."""

import dataclasses
from collections.abc import Callable
from typing import Any

from diffusion_jax.validation.arguments import (
    as_number,
    check_below,
    check_divides,
    check_floats,
    check_instance,
    check_integer,
    check_number,
    check_shape,
    describe,
    join_options,
)
from diffusion_jax.validation.paths import local_path

# Marks a field that is part of the pytree's structure: jit compiles once for each of its values.
STATIC: dict[str, Any] = {"static": True}


@dataclasses.dataclass(frozen=True)
class Checked:
    """Base of the frozen dataclasses whose fields are checked when an object is made.

    A field with a constraint in its metadata (`number`, `integer`, `choice`, `instance`) is checked and
    converted by it. A relation to another field (`below`, `divides`), joined by |, is checked after that. Raises
    ValueError in one line that names the field.
    """

    def __post_init__(self):
        check_fields(self)


def check_fields(value: Any, is_exempt: Callable[[Any], bool] = lambda field_value: False) -> None:
    """Checks and converts the fields of a dataclass that declare a constraint, except those that are exempt."""
    for field in dataclasses.fields(value):
        found = getattr(value, field.name)
        if "check" in field.metadata and not is_exempt(found):
            object.__setattr__(value, field.name, field.metadata["check"](field.name, found))
    for field in dataclasses.fields(value):
        check, other = field.metadata.get("relation", (None, field.name))
        pair = getattr(value, field.name), getattr(value, other)
        if check and not any(map(is_exempt, pair)):
            check(field.name, pair[0], other, pair[1])


def below(other: str) -> dict[str, Any]:
    """Metadata: less than the field `other`.

    >>> dj.schedules.Sigmoid(start=3.0, end=-3.0)
    Traceback (most recent call last):
    ...
    ValueError: start = 3.0: must be below end = -3.0
    """
    return {"relation": (check_below, other)}


def divides(other: str) -> dict[str, Any]:
    """Metadata: a divisor of the field `other`, an integer or a tuple of integers.

    >>> dj.models.UNet(channels=(64, 100), groups=8).check((32, 32, 3))
    Traceback (most recent call last):
    ...
    ValueError: groups = 8: must divide channels = (64, 100)
    """
    return {"relation": (check_divides, other)}


def number(interval: str = "(-inf, inf)") -> dict[str, Any]:
    """Metadata: a number in `interval`, stored as a float.

    >>> number("(0, 1]")["check"]("quantile", 0.5)
    0.5
    """
    return {"check": lambda name, value: as_number(name, value, interval)}


def numbers(interval: str = "(-inf, inf)") -> dict[str, Any]:
    """Metadata: a number or an array of numbers in `interval`.

    >>> numbers("[0, inf)")["check"]("scale", [1.0, 7.5])
    [1.0, 7.5]
    """
    return _constraint(lambda name, value: check_number(name, value, interval))


def floats(*shape: int | str) -> dict[str, Any]:
    """Metadata: an array of finite floats of this shape, written as for `check_shape`.

    >>> floats("B", "...")["check"]("images", np.ones(3, int))
    Traceback (most recent call last):
    ...
    ValueError: images has dtype int64: must be floats, images in [-1, 1]
    """

    def check(name: str, value: Any) -> None:
        check_floats(name, value)
        check_shape(name, value, shape)

    return _constraint(check)


def integer(low: int | None = 1, high: int | None = None) -> dict[str, Any]:
    """Metadata: an integer from `low` to `high`; None leaves a side open.

    >>> integer(1)["check"]("steps", 50)
    50
    """
    return _constraint(lambda name, value: check_integer(name, value, low, high))


def integers(low: int | None = 1, high: int | None = None, length: int | None = None) -> dict[str, Any]:
    """Metadata: a tuple of `length` integers (None: one or more), each from `low` to `high`.

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
    """Metadata: a string that is not empty, such as `example`.

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


def location(example: str = "") -> dict[str, Any]:
    """Metadata: a path such as `example`, with `~` expanded; without an example, "" stands for the default.

    >>> location("images")["check"]("path", "s3://bucket/images")
    Traceback (most recent call last):
    ...
    ValueError: path = s3://bucket/images: must be a path of this machine; mount the bucket (gcsfuse) and use its path
    """
    check_text = text(example)["check"] if example else lambda name, value: check_instance(name, value, str, '""')

    def check(name: str, value: Any) -> str:
        check_text(name, value)
        return str(local_path(name, value)) if value else ""

    return {"check": check}


def choice(*options: Any) -> dict[str, Any]:
    """Metadata: one of the `options`, of the same type.

    >>> choice("small", "large")["check"]("variance", "small")
    'small'
    """
    names = join_options([f'"{option}"' if isinstance(option, str) else str(option) for option in options])

    def check(name: str, value: Any) -> None:
        if not any(type(value) is type(option) and value == option for option in options):
            raise ValueError(f"{name} = {describe(value)}: must be {names}")

    return _constraint(check)


def instance(kind: type, example: str) -> dict[str, Any]:
    """Metadata: an object of the class `kind`, such as `example`.

    >>> instance(bool, "True")["check"]("clip", False)
    False
    """
    return _constraint(lambda name, value: check_instance(name, value, kind, example))


def optional(constraint: dict[str, Any]) -> dict[str, Any]:
    """Metadata: None, or a value that meets `constraint`.

    >>> optional(integer(1))["check"]("batch_size", None)
    """
    check = constraint["check"]
    return {"check": lambda name, value: None if value is None else check(name, value)}


def renamed(name: str, constraint: dict[str, Any]) -> dict[str, Any]:
    """Metadata: `constraint`, whose messages call the value `name`.

    >>> renamed("guidance", number())["check"]("scale", "high")
    Traceback (most recent call last):
    ...
    ValueError: guidance = 'high': must be a number
    """
    return {"check": lambda _, value: constraint["check"](name, value)}


def _constraint(check: Callable[[str, Any], None]) -> dict[str, Any]:
    """Metadata of a check that leaves the value unchanged."""

    def check_and_return(name: str, value: Any) -> Any:
        check(name, value)
        return value

    return {"check": check_and_return}
