"""Values of a parametrized test that only `pytest -m slow` runs."""

from typing import Any

import pytest


def slow(*values: Any) -> list[Any]:
    """Each value, or tuple of values, marked as slow."""
    return [pytest.param(*(v if isinstance(v, tuple) else (v,)), marks=pytest.mark.slow) for v in values]
