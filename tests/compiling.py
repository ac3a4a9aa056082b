"""Programs compiled as users compile them. The suite turns most optimizations off (see conftest.py).

`optimized_jit` compiles one function; the fixture `default_options` of conftest.py covers everything that a test
calls, programs inside the package included.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from unittest import mock

import jax
from jax._src import compiler

OPTIMIZED: dict[str, int | bool] = {"xla_backend_optimization_level": 3}
FAST = ["--xla_backend_optimization_level=0"]  # for XLA_FLAGS
if jax.__version_info__ < (0, 11):  # newer compilers have only one way to generate loops
    OPTIMIZED["xla_cpu_use_fusion_emitters"] = True
    FAST.append("--xla_cpu_use_fusion_emitters=false")


def optimized_jit(fn: Callable, **kwargs) -> Callable:
    """`jax.jit(fn, **kwargs)` with the default compiler options. It must be the outermost jit."""
    return jax.jit(fn, compiler_options=OPTIMIZED, **kwargs)


@contextlib.contextmanager
def optimizations() -> Iterator[None]:
    """Compiles with the default options inside the block. Programs are not shared with the code before and after."""

    @functools.wraps(options := compiler.get_compile_options)
    def optimized(*args, env_options_overrides=None, **kwargs):
        return options(*args, env_options_overrides=OPTIMIZED | (env_options_overrides or {}), **kwargs)

    jax.clear_caches()
    try:
        with mock.patch.object(compiler, "get_compile_options", optimized):
            yield
    finally:
        jax.clear_caches()
