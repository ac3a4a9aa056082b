"""Eight fake devices; what needs one takes the first.

Compiling takes most of the suite's time, so the compiler is told not to optimize and to generate loops in its older
way, which takes half the time (the fixture `default_options` lets a test compile as users do). Programs are kept for
the rest of the suite and the processes that it starts.
"""

import atexit
import gc
import os
import shutil
import tempfile

gc.set_threshold(50_000, 20, 100)  # tracing makes many objects that live; looking through them takes long

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _cache = tempfile.mkdtemp(prefix="diffusion_jax_compiled_")
    atexit.register(shutil.rmtree, _cache, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from compiling import FAST, optimizations

# Read when the first program runs.
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8", *FAST])

# The files that take longest, longest first. They start first, so that no process waits for one of them at the end.
LONG_FILES = (
    "test_processes.py",
    "workdir/test_session.py",
    "workdir/test_bucket.py",
    "verify/test_samplers.py",
    "run/test_run.py",
    "sampling/test_loop.py",
    "test_docs.py",
    "training/test_step.py",
    "models/test_unet.py",
    "verify/test_certificate.py",
    "test_compatibility.py",
    "models/test_convnext_unet.py",
    "runtime/test_checkpoint.py",
    "test_docstrings.py",
    "sampling/likelihood/test_likelihood.py",
    "cli/test_train.py",
    "cli/test_sample.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {Path(__file__).parent / name: rank for rank, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))  # stable: the others keep their order


# Where all noise is drawn. The check keeps jit from its fast way to call a program, and other tests call many.
KEYED = (
    "cli",
    "edit",
    "preflight",
    "run",
    "sampling/editing",
    "sampling/likelihood",
    "sampling/test_loop.py",
    "training",
    "workdir",
)


@pytest.fixture(autouse=True)
def _a_key_used_twice_is_an_error(request: pytest.FixtureRequest) -> Iterator[None]:
    keyed = any(request.path.is_relative_to(Path(__file__).parent / name) for name in KEYED)
    jax.config.update("jax_debug_key_reuse", keyed)  # in all threads: training compiles in one of its own
    yield
    jax.config.update("jax_debug_key_reuse", False)


@pytest.fixture(scope="session")
def devices() -> list[jax.Device]:
    found = jax.devices()
    assert len(found) == 8
    return found


@pytest.fixture
def default_options() -> Iterator[None]:
    """The test compiles with the compiler options that users have."""
    with optimizations():
        yield
