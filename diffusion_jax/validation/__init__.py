"""Argument checks that run before compilation. Traced values are not checked.

The fields of a frozen dataclass declare in their metadata what they accept, and the base class `Checked`
enforces it when an object is made:

    @dataclasses.dataclass(frozen=True)
    class Mine(Checked):
        eta: float = dataclasses.field(default=0.0, metadata=number("[0, 1]"))
        order: int = dataclasses.field(default=2, metadata=STATIC | choice(1, 2, 3))
        width: int = dataclasses.field(default=64, metadata=integer(1))
        groups: int = dataclasses.field(default=8, metadata=integer(1) | divides("width"))

The arguments of a public function are declared above it, with `checked`:

    @checked(steps=integer(1), scale=numbers("[0, inf)"), x0=floats("B", "H", "W", "C"))
    def sample(x0, scale, steps=50):

The `check_...` functions are for the rest, such as the shape of one argument that depends on another. They are called
once, at the public entry.
"""

from diffusion_jax.validation.arguments import (
    as_number,
    check_below,
    check_divides,
    check_floats,
    check_instance,
    check_integer,
    check_integers,
    check_number,
    check_shape,
    concrete,
    describe,
)
from diffusion_jax.validation.fields import (
    STATIC,
    Checked,
    below,
    check_fields,
    choice,
    divides,
    floats,
    instance,
    integer,
    integers,
    location,
    number,
    numbers,
    optional,
    renamed,
    text,
)
from diffusion_jax.validation.paths import find_address, local_path
from diffusion_jax.validation.printing import compose, printable
from diffusion_jax.validation.signature import bind_arguments, checked

__all__ = [
    "STATIC",
    "Checked",
    "as_number",
    "below",
    "bind_arguments",
    "check_below",
    "check_divides",
    "check_fields",
    "check_floats",
    "check_instance",
    "check_integer",
    "check_integers",
    "check_number",
    "check_shape",
    "checked",
    "choice",
    "compose",
    "concrete",
    "describe",
    "divides",
    "find_address",
    "floats",
    "instance",
    "integer",
    "integers",
    "local_path",
    "location",
    "number",
    "numbers",
    "optional",
    "printable",
    "renamed",
    "text",
]
