"""What callers hand in, checked before anything is compiled; what jit traces has no value yet, and passes."""

import math
from typing import Any

import jax
import numpy as np

_FLOATS = (np.dtype("float16"), np.dtype(jax.numpy.bfloat16), np.dtype("float32"), np.dtype("float64"))


def check_whole(name: str, value: Any, low: int | None = 1) -> None:
    """Raises ValueError unless `value` is a whole number of at least `low`; True and 2.0 are none.

    A size that `jax.export` leaves open passes.
    """
    if jax.export.is_symbolic_dim(value):
        return
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"{name} = {shown(value)}: must be a whole number")
    if low is not None and value < low:
        raise ValueError(f"{name} = {value}: must be at least {low}")


def check_number(
    name: str, value: Any, low: float = -math.inf, high: float = math.inf, infinite: bool = False
) -> None:
    """Raises ValueError unless all of `value`, a number or an array of them, lie in [low, high].

    NaN never does, nor does what float32 cannot hold, unless it may be `infinite`.
    """
    found = concrete(name, value)
    if found is None:
        return
    if isinstance(value, bool) or (found.dtype.kind not in "iub" and found.dtype not in _FLOATS):
        raise ValueError(f"{name} = {shown(value)}: must be a number")
    found = found.astype(np.float64)
    within = (low <= found) & (found <= high)
    wrong = found[~(within & (infinite | (np.abs(found) <= np.finfo(np.float32).max)))]
    if wrong.size:
        limits = [f"in [{low:g}, {high:g}]"] if math.isfinite(high) else []
        limits += [f"at least {low:g}"] if math.isfinite(low) and not limits else []
        limits += [] if infinite or math.isfinite(high) else ["finite"]
        raise ValueError(f"{name} = {wrong[0]}: must be {' and '.join(limits)}")


def one_number(
    name: str, value: Any, low: float = -math.inf, high: float = math.inf, infinite: bool = False
) -> Any:
    """`value` as a float, or as it is where jit traces it. Raises ValueError as above, and for an array."""
    check_number(name, value, low, high, infinite)
    if np.ndim(value):
        raise ValueError(f"{name} has shape {np.shape(value)}: give one number")
    return value if concrete(name, value) is None else float(value)


def check_kind(name: str, value: Any, kind: type, example: str) -> None:
    """Raises ValueError unless `value` is an object of the class `kind`, such as `example`."""
    if not isinstance(value, kind) and not (kind is bool and isinstance(value, np.bool_)):
        raise ValueError(f"{name} = {shown(value)}: must be of type {kind.__name__}, such as {example}")


def check_floats(name: str, value: Any) -> None:
    """Raises ValueError unless `value` is an array of floats, none of them NaN or infinite."""
    found = concrete(name, value)
    dtype = getattr(value, "dtype", None) if found is None else found.dtype
    if dtype is not None and dtype not in _FLOATS:
        raise ValueError(f"{name}: of type {dtype}; give floats, pictures in [-1, 1]")
    if found is not None and not np.isfinite(found).all():
        raise ValueError(f"{name}: holds numbers that are not finite")


def concrete(name: str, value: Any) -> np.ndarray | None:
    """`value` as an array; None where jit traces a part of it, or other machines hold one.

    Raises ValueError for what is no array.
    """
    for leaf in jax.tree.leaves(value):
        if isinstance(leaf, jax.core.Tracer) or not getattr(leaf, "is_fully_addressable", True):
            return None
    try:
        return np.asarray(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} = {shown(value)}: must be numbers in rows of one length") from None


def shown(value: Any) -> str:
    """`value` in a message of one line."""
    if hasattr(value, "dtype") and np.ndim(value):
        return f"an array {value.dtype}{list(np.shape(value))}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
