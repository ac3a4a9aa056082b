"""What is refused of what callers hand in, what is not, and in which words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.validation import (
    as_number,
    check_floats,
    check_instance,
    check_integer,
    check_number,
    shown,
)

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("value", [1, 7, np.int32(1), np.uint8(200)])
def test_whole_numbers_pass(value):
    check_integer("n", value)


@pytest.mark.parametrize(
    ("value", "low", "message"),
    [
        (0, 1, "^n = 0: must be at least 1$"),
        (-1, 0, "^n = -1: must be at least 0$"),
        (2.0, 1, "^n = 2.0: must be a whole number$"),
        (NAN, 1, "^n = nan: must be a whole number$"),
        (True, 1, "^n = True: must be a whole number$"),
        ("2", 1, "^n = '2': must be a whole number$"),
        (None, 1, "^n = None: must be a whole number$"),
    ],
)
def test_what_is_no_whole_number_is_refused(value, low, message):
    with pytest.raises(ValueError, match=message):
        check_integer("n", value, low)


@pytest.mark.parametrize(
    ("value", "limits"),
    [
        (0, (0, 1)),
        (1.0, (0, 1)),
        ([0.0, 1.0], (0, 1)),
        (np.float64(1e30), ()),
        (jnp.bfloat16(0.5), (0, 1)),
        (jnp.ones((2, 3)), (0, 1)),
    ],
)
def test_numbers_within_their_limits_pass(value, limits):
    check_number("w", value, *limits)


@pytest.mark.parametrize(
    ("value", "limits", "message"),
    [
        (1.5, (0, 1), r"^w = 1.5: must be in \[0, 1\]$"),
        (NAN, (0, 1), r"^w = nan: must be in \[0, 1\]$"),
        (-1, (0,), "^w = -1.0: must be at least 0 and finite$"),
        (NAN, (0,), "^w = nan: must be at least 0 and finite$"),
        (INF, (0,), "^w = inf: must be at least 0 and finite$"),
        (1e39, (), "^w = 1e\\+39: must be finite$"),
        (INF, (), "^w = inf: must be finite$"),
        (np.array([1.0, NAN]), (), "^w = nan: must be finite$"),
        (jnp.array([0.5, 2.0]), (0, 1), "^w = 2.0: must be in"),
        ("1", (), "^w = '1': must be a number$"),
        (None, (), "^w = None: must be a number$"),
        (True, (), "^w = True: must be a number$"),
        (1j, (), "must be a number$"),
        ([[1.0], [1.0, 2.0]], (), "must be numbers in rows of one length$"),
        (np.full((50, 50), "x"), (), r"^w = an array <U1\[50, 50\]: must be a number$"),
    ],
)
def test_other_numbers_are_refused(value, limits, message):
    with pytest.raises(ValueError, match=message):
        check_number("w", value, *limits)


def test_an_object_of_the_class_passes_and_the_class_itself_does_not():
    check_instance("grid", 3, int, "3")
    with pytest.raises(ValueError, match="^grid = <class 'int'>: must be of type int, such as 3$"):
        check_instance("grid", int, int, "3")


def test_infinity_passes_where_it_may():
    check_number("w", INF, 0, infinite=True)
    with pytest.raises(ValueError, match="^w = nan: must be at least 0$"):
        check_number("w", NAN, 0, infinite=True)


def test_one_number_becomes_a_float_and_an_array_is_refused():
    assert isinstance(as_number("w", np.float32(0.5)), float)
    with pytest.raises(ValueError, match=r"^w has shape \(1,\): give one number$"):
        as_number("w", [0.5])


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (jnp.array([1.0, INF]), "^x: holds numbers that are not finite$"),
        (np.zeros(3, np.uint8), "^x: of type uint8; give floats, pictures in"),
        (np.zeros(3, np.complex64), "^x: of type complex64; give floats"),
        (["a", "b"], "^x: of type <U1; give floats"),
        ([[1.0], []], r"^x = \[\[1.0\], \[\]\]: must be numbers in rows of one length$"),
    ],
)
def test_what_is_no_array_of_finite_floats_is_refused(x, message):
    check_floats("x", np.ones(3))
    with pytest.raises(ValueError, match=message):
        check_floats("x", x)


def test_messages_are_one_short_line():
    assert shown("a\nb") == "'a\\nb'"
    assert len(shown(list(range(1000)))) == 60
    assert shown(jnp.zeros((2, 3))) == "an array float32[2, 3]"


def test_what_is_traced_passes():
    """It has no value yet; and values at hand are looked at under jit too."""

    @jax.jit
    def traced(x):
        check_number("w", x, 0, 1)
        check_number("w", [x, 0.5], 0, 1)
        check_floats("x", [x, x])
        return x

    traced(jnp.float32(NAN))
    with pytest.raises(ValueError, match="x: of type int32"):  # the type is known
        jax.jit(lambda x: check_floats("x", x))(1)
    known = jnp.array([2.0])
    with pytest.raises(ValueError, match=r"w = 2.0: must be in \[0, 1\]"):
        jax.jit(lambda: check_number("w", known, 0, 1))()
