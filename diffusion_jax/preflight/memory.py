"""The memory of a compiled program per device, and the memory that a device has."""

import dataclasses
import os
from typing import Any

import jax
from jax.sharding import Mesh

__all__ = ["Memory", "find_capacity", "read_memory"]


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on each device that a program plans to use, by `memory_analysis()` of the compiler.

    Attributes:
      arguments: the state or the parameters, and the batch.
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


def read_memory(compiled: jax.stages.Compiled) -> Memory:
    """What the compiler has planned for a program."""
    sizes: Any = compiled.memory_analysis()
    output = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    code = sizes.generated_code_size_in_bytes
    return Memory(sizes.argument_size_in_bytes, sizes.temp_size_in_bytes, output, code)


def find_capacity(mesh: Mesh) -> int:
    """Bytes that each device of this machine has for programs; 0 if JAX does not tell.

    CPU devices share the machine's memory.
    """
    device = next(iter(mesh.local_devices))
    if device.platform == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // len(mesh.local_devices)
    return (device.memory_stats() or {}).get("bytes_limit", 0)
