"""Programs compiled as users compile them. The suite turns most optimizations off (see conftest.py).

`optimized_jit` compiles one function; the fixture `default_options` of conftest.py covers everything that a test
calls, programs inside the package included.
"""

import contextlib
from collections.abc import Callable, Iterator

import jax

OPTIMIZED = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}


def optimized_jit(fn: Callable, **kwargs) -> Callable:
    """`jax.jit(fn, **kwargs)` with the default compiler options. It must be the outermost jit."""
    return jax.jit(fn, compiler_options=OPTIMIZED, **kwargs)


@contextlib.contextmanager
def optimizations() -> Iterator[None]:
    """Compiles with the default options inside the block. Programs of before are compiled again, before and after."""
    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        yield
    finally:
        jax.clear_caches()
        jax.config.update("jax_disable_most_optimizations", True)
