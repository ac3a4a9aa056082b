"""What the argument checks refuse and accept, and the words of their messages."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.validation import (
    Checked,
    as_number,
    check_floats,
    check_instance,
    check_integer,
    check_number,
    check_shape,
    choice,
    describe,
    instance,
    integer,
    number,
)

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("value", [1, 7, np.int32(1), np.uint8(200)])
def test_integers_pass(value):
    check_integer("n", value)


@pytest.mark.parametrize(
    ("value", "low", "high", "message"),
    [
        (0, 1, None, "^n = 0: must be an integer >= 1$"),
        (-1, 0, None, "^n = -1: must be an integer >= 0$"),
        (2.0, 1, None, "^n = 2.0: must be an integer >= 1$"),
        (NAN, 1, None, "^n = nan: must be an integer >= 1$"),
        (True, 1, None, "^n = True: must be an integer >= 1$"),
        ("2", 1, None, "^n = '2': must be an integer >= 1$"),
        (None, None, None, "^n = None: must be an integer$"),
        (4, 1, 3, "^n = 4: must be an integer from 1 to 3$"),
        (0, 1, 3, "^n = 0: must be an integer from 1 to 3$"),
        (4, None, 3, "^n = 4: must be an integer <= 3$"),
    ],
)
def test_other_integers_are_refused(value, low, high, message):
    with pytest.raises(ValueError, match=message):
        check_integer("n", value, low, high)


@pytest.mark.parametrize(
    ("value", "interval"),
    [
        (0, "[0, 1]"),
        (1.0, "[0, 1]"),
        ([0.0, 1.0], "[0, 1]"),
        (np.float64(1e30), "(-inf, inf)"),
        (jnp.bfloat16(0.5), "(0, 1)"),
        (jnp.ones((2, 3)), "(0, 1]"),
        (INF, "[0, inf]"),
        (1e39, "[0, inf]"),
    ],
)
def test_numbers_in_the_interval_pass(value, interval):
    check_number("w", value, interval)


@pytest.mark.parametrize(
    ("value", "interval", "message"),
    [
        (1.5, "[0, 1]", r"^w = 1.5: must be in \[0, 1\]$"),
        (0, "(0, 1]", r"^w = 0.0: must be in \(0, 1\]$"),
        (1, "(0, 1)", r"^w = 1.0: must be in \(0, 1\)$"),
        (NAN, "[0, 1]", r"^w = nan: must be in \[0, 1\]$"),
        (-1, "[0, inf)", "^w = -1.0: must be >= 0 and finite$"),
        (0, "(0, inf)", "^w = 0.0: must be > 0 and finite$"),
        (1, "(-inf, 0.5]", "^w = 1.0: must be <= 0.5 and finite$"),
        (NAN, "[0, inf)", "^w = nan: must be >= 0 and finite$"),
        (INF, "[0, inf)", "^w = inf: must be >= 0 and finite$"),
        (NAN, "[0, inf]", "^w = nan: must be >= 0$"),
        (1e39, "(-inf, inf)", "^w = 1e\\+39: must be finite$"),
        (INF, "(-inf, inf)", "^w = inf: must be finite$"),
        (np.array([1.0, NAN]), "(-inf, inf)", "^w = nan: must be finite$"),
        (jnp.array([0.5, 2.0]), "[0, 1]", "^w = 2.0: must be in"),
        ("1", "(-inf, inf)", "^w = '1': must be a number$"),
        (None, "(-inf, inf)", "^w = None: must be a number$"),
        (True, "(-inf, inf)", "^w = True: must be a number$"),
        (1j, "(-inf, inf)", "must be a number$"),
        ([[1.0], [1.0, 2.0]], "(-inf, inf)", "must be numbers in rows of equal length$"),
        (np.full((50, 50), "x"), "(-inf, inf)", r"^w = an array <U1\[50, 50\]: must be a number$"),
    ],
)
def test_other_numbers_are_refused(value, interval, message):
    with pytest.raises(ValueError, match=message):
        check_number("w", value, interval)


def test_an_object_of_the_class_passes_and_the_class_itself_does_not():
    check_instance("grid", 3, int, "3")
    check_instance("clip", np.bool_(True), bool, "True")
    with pytest.raises(ValueError, match="^grid = <class 'int'>: must be of type int, such as 3$"):
        check_instance("grid", int, int, "3")


def test_one_number_becomes_a_float_and_an_array_is_refused():
    assert isinstance(as_number("w", np.float32(0.5)), float)
    with pytest.raises(ValueError, match=r"^w has shape \(1,\): must be one number$"):
        as_number("w", [0.5])


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (jnp.array([1.0, INF]), "^x has values that are not finite: must be finite floats$"),
        (np.zeros(3, np.uint8), "^x has dtype uint8: must be floats, images in"),
        (np.zeros(3, np.complex64), "^x has dtype complex64: must be floats"),
        (["a", "b"], "^x has dtype <U1: must be floats"),
        ([[1.0], []], r"^x = \[\[1.0\], \[\]\]: must be numbers in rows of equal length$"),
    ],
)
def test_an_array_without_finite_floats_is_refused(x, message):
    check_floats("x", np.ones(3))
    with pytest.raises(ValueError, match=message):
        check_floats("x", x)


@pytest.mark.parametrize(
    ("shape", "shapes"),
    [
        ((), [()]),
        ((6,), [(), (6,)]),
        ((2, 8, 8, 3), [("B", "H", "W", "C")]),
        ((2, 8, 8, 3), [("B", "H", "W", 3)]),
        ((2, 5), [("B", "...")]),
        ((2, 5, 5), [("B", "...")]),
        ((), [(), ("B", "...")]),
    ],
)
def test_listed_shapes_pass(shape, shapes):
    check_shape("x", np.zeros(shape), *shapes)
    jax.eval_shape(lambda x: check_shape("x", x, *shapes), jax.ShapeDtypeStruct(shape, jnp.float32))


@pytest.mark.parametrize(
    ("shape", "shapes", "message"),
    [
        ((4,), [(), (6,)], r"^x has shape \(4,\): must be one number or \[6\]$"),
        ((6, 1), [(), (6,)], r"^x has shape \(6, 1\): must be one number or \[6\]$"),
        ((4, 4, 1), [("B", "H", "W", "C")], r"^x has shape \(4, 4, 1\): must be \[B, H, W, C\]$"),
        ((2, 8, 8, 1), [("B", "H", "W", 3)], r"must be \[B, H, W, 3\]$"),
        ((2,), [("B", "...")], r"^x has shape \(2,\): must be \[B, \.\.\.\]$"),
        ((), [("B", "...")], r"^x has shape \(\): must be \[B, \.\.\.\]$"),
        ((3,), [(1,), (2,), (4, "C")], r"must be \[1\], \[2\] or \[4, C\]$"),
    ],
)
def test_other_shapes_are_refused(shape, shapes, message):
    with pytest.raises(ValueError, match=message):
        check_shape("x", np.zeros(shape), *shapes)


def test_messages_are_one_short_line():
    assert describe("a\nb") == "'a\\nb'"
    assert len(describe(list(range(1000)))) == 60
    assert describe(jnp.zeros((2, 3))) == "an array float32[2, 3]"


@dataclasses.dataclass(frozen=True)
class Settings(Checked):
    share: float = dataclasses.field(default=0.5, metadata=number("[0, 1]"))
    steps: int = dataclasses.field(default=2, metadata=integer(1, 9))
    kind: str = dataclasses.field(default="a", metadata=choice("a", "b"))
    clip: bool = dataclasses.field(default=True, metadata=instance(bool, "True"))
    free: object = None


def test_fields_are_checked_and_numbers_are_stored_as_floats():
    found = Settings(np.float32(0.25), free=object)
    assert type(found.share) is float
    assert found == Settings(0.25, free=object)
    assert dataclasses.replace(found, steps=9).steps == 9


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"share": 1.5}, r"^share = 1.5: must be in \[0, 1\]$"),
        ({"share": [0.5]}, r"^share has shape \(1,\): must be one number$"),
        ({"share": jnp.ones(3)}, r"^share has shape \(3,\): must be one number$"),
        ({"steps": 10}, "^steps = 10: must be an integer from 1 to 9$"),
        ({"kind": "c"}, '^kind = \'c\': must be "a" or "b"$'),
        ({"clip": 1}, "^clip = 1: must be of type bool, such as True$"),
    ],
)
def test_a_wrong_field_is_refused_by_name(wrong, message):
    with pytest.raises(ValueError, match=message):
        Settings(**wrong)


def test_an_option_is_of_the_same_type():
    check = choice(1, 2, 3)["check"]
    for wrong in (2.0, True, "2", 4):
        with pytest.raises(ValueError, match="must be 1, 2 or 3$"):
            check("order", wrong)


def test_traced_values_pass_and_values_at_hand_are_checked_under_jit_too():
    @jax.jit
    def traced(x):
        check_number("w", x, "[0, 1]")
        check_number("w", [x, 0.5], "[0, 1]")
        check_floats("x", [x, x])
        assert as_number("w", x) is x
        return x

    traced(jnp.float32(NAN))
    with pytest.raises(ValueError, match="x has dtype int32"):  # the type is known
        jax.jit(lambda x: check_floats("x", x))(1)
    known = jnp.array([2.0])
    with pytest.raises(ValueError, match=r"w = 2.0: must be in \[0, 1\]"):
        jax.jit(lambda: check_number("w", known, "[0, 1]"))()
