"""What callers hand in, checked before anything is compiled; what jit traces has no value yet, and passes."""

import math
from typing import Any

import jax
import numpy as np


def check_whole(name: str, value: Any, low: int = 1) -> None:
    """Raises ValueError unless `value` is a whole number of at least `low`; True and 2.0 are none."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"{name} = {value!r}: must be a whole number")
    if value < low:
        raise ValueError(f"{name} = {value}: must be at least {low}")


def check_number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> None:
    """Raises ValueError unless all of `value`, a number or an array of them, lie in [low, high].

    NaN never does, infinity only where `low` is given and `high` is not.
    """
    if isinstance(value, jax.core.Tracer):
        return
    try:
        found = np.asarray(value)
    except ValueError:  # rows of several lengths
        found = np.asarray(None)
    if found.dtype.kind not in "iuf" and found.dtype != jax.numpy.bfloat16:
        raise ValueError(f"{name} = {value!r}: must be a number")
    found = found.astype(np.float64)
    bounded = math.isfinite(low) or math.isfinite(high)
    wrong = found[~((low <= found) & (found <= high) if bounded else np.isfinite(found))]
    if wrong.size:
        limits = f"in [{low:g}, {high:g}]" if math.isfinite(high) else f"at least {low:g}"
        raise ValueError(f"{name} = {wrong[0]}: must be {limits if bounded else 'finite'}")


def check_kind(name: str, value: Any, kind: type, example: str) -> None:
    """Raises ValueError unless `value` is an object of the class `kind`, such as `example`."""
    if not isinstance(value, kind):
        raise ValueError(f"{name} = {value!r}: must be of type {kind.__name__}, such as {example}")


def check_finite(name: str, value: Any) -> None:
    """Raises ValueError where an array holds NaN or infinity."""
    if not isinstance(value, jax.core.Tracer) and not np.isfinite(np.asarray(value)).all():
        raise ValueError(f"{name}: holds numbers that are not finite")
