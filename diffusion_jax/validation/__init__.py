"""Argument checks that run before compilation. Traced values are not checked.

The fields of a frozen dataclass declare in their metadata what they accept, and the base class `Checked`
enforces it when an object is made:

    @dataclasses.dataclass(frozen=True)
    class Mine(Checked):
        eta: float = dataclasses.field(default=0.0, metadata=number("[0, 1]"))
        order: int = dataclasses.field(default=2, metadata=STATIC | choice(1, 2, 3))

Functions with array arguments call the `check_...` functions once, at the public entry.
"""

from diffusion_jax.validation.arguments import (
    as_number,
    check_below,
    check_floats,
    check_instance,
    check_integer,
    check_number,
    check_shape,
    concrete,
    describe,
)
from diffusion_jax.validation.fields import (
    STATIC,
    Checked,
    check_fields,
    choice,
    instance,
    integer,
    integers,
    location,
    number,
    text,
)
from diffusion_jax.validation.paths import local_path

__all__ = [
    "STATIC",
    "Checked",
    "as_number",
    "check_below",
    "check_fields",
    "check_floats",
    "check_instance",
    "check_integer",
    "check_number",
    "check_shape",
    "choice",
    "concrete",
    "describe",
    "instance",
    "integer",
    "integers",
    "local_path",
    "location",
    "number",
    "text",
]
