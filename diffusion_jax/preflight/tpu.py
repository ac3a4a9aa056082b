"""TPU slices that are not here: their devices, for which the TPU compiler compiles, and their memory."""

import dataclasses
import importlib.metadata
import math
import os
import re

import jax

from diffusion_jax.runtime.errors import RunError, first_line

__all__ = ["Slice", "find_devices", "parse_slice"]

_GIB = 2**30
# Memory of a chip: 16, 95 and 32 GiB by cloud.google.com/tpu/docs/v5e, v5p and v6e. The compiler keeps some back: when
# a program is too large it says that 15.75, 95.74 and 31.25 GiB are available (libtpu 0.0.42).
_CAPACITY = {"v5e": int(15.75 * _GIB), "v5p": 95 * _GIB, "v6e": int(31.25 * _GIB)}
_PER_HOST = (2, 2, 1)  # the compiler's own assumption
_EXAMPLES = "such as v5e:2x2, v6e:4x4 or v5p:2x2x1"
# Read when libtpu is loaded. Without them it asks the metadata server of a Cloud TPU VM what it is.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # any that exists; the name of the topology counts
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no device is used, so that another process may hold one
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """A TPU slice.

    Attributes:
      chip: v5e, v5p or v6e.
      shape: chips along each of its two or three dimensions.

    >>> Slice("v5e", (2, 2)).name, Slice("v5e", (2, 2)).chips
    ('v5e:2x2', 4)
    """

    chip: str
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.chip}:{'x'.join(map(str, self.shape))}"

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    @property
    def capacity(self) -> int:
        """Bytes of memory that a program can use on each chip."""
        return _CAPACITY[self.chip]


def parse_slice(text: str) -> Slice:
    """The slice that a text such as "v5e:2x2" names. Raises ValueError for another text.

    >>> parse_slice("v5p:2x2x1")
    Slice(chip='v5p', shape=(2, 2, 1))
    """
    match = re.fullmatch(r"(\w+):([1-9]\d*(?:x[1-9]\d*){1,2})", text)
    if not match or match[1] not in _CAPACITY:
        raise ValueError(f"tpu = {text}: must be one of {', '.join(_CAPACITY)} with its shape in chips, {_EXAMPLES}")
    return Slice(match[1], tuple(map(int, match[2].split("x"))))


def find_devices(tpu: Slice) -> list[jax.Device]:
    """The devices of a slice as the TPU compiler describes them; nothing can run on them.

    Raises RunError if the compiler is not installed, and ValueError if it does not know the slice.
    """
    os.environ.update(_ENVIRONMENT)
    try:
        import libtpu  # noqa: F401
    except ImportError as error:
        raise RunError(f'the TPU compiler is not installed: pip install "{_find_requirement()}"') from error
    from jax.experimental import topologies

    # Smaller slices are a part of one host.
    bounds = {} if tpu.chips >= math.prod(_PER_HOST) else {"chips_per_host_bounds": [*tpu.shape, 1][:3]}
    try:
        topology = topologies.get_topology_desc(platform="tpu", topology_name=tpu.name, **bounds)
    except jax.errors.JaxRuntimeError as error:
        reason = first_line(error).partition(": ")[2]
        raise ValueError(f"tpu = {tpu.name}: the compiler refuses it ({reason}); use another, {_EXAMPLES}") from error
    return list(topology.devices)


def _find_requirement() -> str:
    """The version of libtpu that the installed JAX asks for in its extra "tpu"."""
    found = [text.partition(";")[0].strip() for text in importlib.metadata.requires("jax") or []]
    return next((text for text in found if text.startswith("libtpu")), "jax[tpu]")
