import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.process.pixels import to_float, to_uint8

LEVELS = np.arange(256, dtype=np.uint8)


def test_every_level_survives_the_conversion_to_floats_and_back():
    np.testing.assert_array_equal(to_uint8(to_float(jnp.asarray(LEVELS))), LEVELS)


def test_levels_become_numbers_from_minus_one_to_one():
    x = to_float(jnp.asarray(LEVELS))
    assert x.dtype == jnp.float32
    np.testing.assert_allclose(x, np.linspace(-1, 1, 256), atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_floats_are_not_scaled(dtype):
    x = jnp.array([-3.0, 0.5, 200.0], dtype)
    assert to_float(x).dtype == jnp.float32
    np.testing.assert_array_equal(to_float(x), x.astype(jnp.float32))


def test_uint8_is_returned_unchanged():
    assert to_uint8(LEVELS) is LEVELS


def test_conversion_has_no_bias():
    """Truncating (x + 1) * 127.5 instead is half a level dark."""
    x = np.random.default_rng(0).uniform(-1, 1, 1_000_000)
    error = to_uint8(x).astype(np.float64) - (x + 1) * 127.5
    assert abs(error.mean()) < 0.02
    assert np.abs(error).max() < 0.5 + 1e-4


@pytest.mark.parametrize(("value", "level"), [(-1, 0), (1, 255), (-7, 0), (7, 255), (1.001, 255), (-np.inf, 0)])
def test_conversion_clips(value, level):
    assert to_uint8(np.array([value])) == level
    assert to_uint8(np.array([value])).dtype == np.uint8
