"""The suite compiles without optimizations, and `compiling` brings them back: sums are then grouped otherwise."""

import jax
import jax.numpy as jnp
import pytest
from compiling import optimizations, optimized_jit


def code(jit=jax.jit) -> float:
    """A number whose last bit tells how the compiler grouped its sum."""

    def function(x):
        for _ in range(3):
            x = jnp.sin(x @ x) * 2 + jnp.tanh(x) / (1 + x * x)
        return x.sum()

    return float(jit(function)(jnp.ones((32, 32))))


@pytest.mark.slow
def test_one_function_or_all_that_a_test_calls_is_optimized():
    plain = code()
    with optimizations():
        optimized = code()
    assert plain != optimized == code(optimized_jit)
    assert code() == plain


@pytest.mark.slow
def test_the_fixture_optimizes(default_options):
    assert code() == code(optimized_jit)


@pytest.mark.parametrize("jit", [jax.jit, optimized_jit])
def test_inner_programs_are_compiled_with_the_outer(jit):
    assert code(lambda function: jit(lambda x: jax.jit(function)(x))) == code(jit)
