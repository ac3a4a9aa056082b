"""Eight fake devices, set before JAX is imported; what needs one takes the first.

Compiling takes most of the suite's time, so the compiler is told not to optimize.
"""

import os

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

jax.config.update("jax_debug_key_reuse", True)  # a key used twice is an error


@pytest.fixture(scope="session")
def devices() -> list[jax.Device]:
    found = jax.devices()
    assert len(found) == 8
    return found
