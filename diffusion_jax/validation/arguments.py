"""Checks of arguments, one call each at a public entry."""

from typing import Any

import jax
import numpy as np

from diffusion_jax.validation.interval import parse_interval

_FLOATS = (np.dtype("float16"), np.dtype(jax.numpy.bfloat16), np.dtype("float32"), np.dtype("float64"))


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


def check_integers(name: str, value: Any, low: int, high: int) -> None:
    """Raises ValueError unless `value` is an array of integers from `low` to `high`.

    >>> check_integers("labels", [3, 12], 0, 9)
    Traceback (most recent call last):
    ...
    ValueError: labels contain 12: must be from 0 to 9
    """
    found = concrete(name, value)
    dtype = jax.numpy.asarray(value).dtype if found is None else found.dtype
    if not np.issubdtype(dtype, np.integer):
        raise ValueError(f"{name} = {describe(value)}: must be integers")
    wrong = np.zeros(0) if found is None else found[(found < low) | (found > high)]
    if wrong.size:
        raise ValueError(f"{name} contain {wrong[0]}: must be from {low} to {high}")


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
    found, limits = found.astype(np.float64), parse_interval(interval)
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


def check_below(low_name: str, low: Any, high_name: str, high: Any) -> None:
    """Raises ValueError unless `low` < `high`, one number each.

    >>> check_below("start", 1.0, "end", 1.0)
    Traceback (most recent call last):
    ...
    ValueError: start = 1.0: must be below end = 1.0
    """
    if concrete(low_name, (low, high)) is not None and low >= high:
        raise ValueError(f"{low_name} = {low}: must be below {high_name} = {high}")


def check_divides(name: str, value: int, whole_name: str, whole: Any) -> None:
    """Raises ValueError unless `value` divides `whole`, an integer or several.

    >>> check_divides("groups", 8, "channels", (64, 100))
    Traceback (most recent call last):
    ...
    ValueError: groups = 8: must divide channels = (64, 100)
    """
    if any(n % value for n in np.ravel(whole)):
        raise ValueError(f"{name} = {value}: must divide {whole_name} = {whole}")


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
        raise ValueError(f"{name} has shape {found}: must be {join_options(names)}")


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


def _has_shape(found: tuple[int, ...], shape: tuple[int | str, ...]) -> bool:
    if shape[-1:] == ("...",):
        shape = shape[:-1]
        found = found[: len(shape)] if len(found) > len(shape) else ()
    return len(found) == len(shape) and all(
        isinstance(size, str) or n == size for n, size in zip(found, shape, strict=True)
    )


def join_options(names: list[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
