"""The memory of a compiled program per device."""

import dataclasses
from typing import Any

import jax

__all__ = ["Memory", "read_memory"]


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on each device that a program plans to use, by `memory_analysis()` of the compiler.

    Attributes:
      arguments: the state or the parameters, the batch, and training images that are kept on the device.
      temporaries: activations, gradients and whatever else lives within a call.
      output: the results that do not take the place of an argument, as the new state does.
      code: the program itself, which accelerators hold in the same memory.

    >>> Memory(arguments=300, temporaries=500, output=20, code=10).total
    830
    """

    arguments: int
    temporaries: int
    output: int
    code: int = 0

    @property
    def total(self) -> int:
        return self.arguments + self.temporaries + self.output + self.code


def read_memory(compiled: jax.stages.Compiled, kept: int = 0) -> Memory:
    """What the compiler has planned for a program, and `kept` bytes that are on the device in any case."""
    sizes: Any = compiled.memory_analysis()
    output = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    code = sizes.generated_code_size_in_bytes
    return Memory(kept + sizes.argument_size_in_bytes, sizes.temp_size_in_bytes, output, code)
