"""Constraints that the arguments of a function declare above it."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def bind_arguments(signature: inspect.Signature, args: Any, kwargs: Any) -> inspect.BoundArguments | None:
    """The arguments of a call by name; None if it does not fit: then call, for Python's own TypeError.

    >>> bind_arguments(inspect.signature(lambda x, steps=1: x), (2.0,), {}).arguments
    {'x': 2.0}
    """
    try:
        return signature.bind(*args, **kwargs)
    except TypeError:
        return None


def checked(**constraints: dict[str, Any]) -> Callable[[Callable[_Arguments, _Result]], Callable[_Arguments, _Result]]:
    """Checks and converts the arguments of each call, as `Checked` does for the fields of a dataclass.

    Arguments that are left out have their default, which is not checked. The signature and the docstring stay.

    >>> from diffusion_jax.validation import integer
    >>> @checked(steps=integer(1))
    ... def halve(x, steps=1):
    ...     return x / 2**steps
    >>> halve(1.0, steps=0)
    Traceback (most recent call last):
    ...
    ValueError: steps = 0: must be an integer >= 1
    """

    def decorate(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
        signature = inspect.signature(function)
        unknown = constraints.keys() - signature.parameters.keys()
        assert not unknown, f"{function.__qualname__} has no argument {unknown}"

        @functools.wraps(function)
        def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
            bound = bind_arguments(signature, args, kwargs)
            if bound is None:
                return function(*args, **kwargs)
            for name, constraint in constraints.items():
                if name in bound.arguments:
                    bound.arguments[name] = constraint["check"](name, bound.arguments[name])
            return function(*bound.args, **bound.kwargs)

        return call

    return decorate
