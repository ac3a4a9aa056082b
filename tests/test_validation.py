"""What the argument checks refuse and accept, and the words of their messages."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.validation import (
    Checked,
    as_number,
    below,
    check_below,
    check_divides,
    check_floats,
    check_instance,
    check_integer,
    check_integers,
    check_number,
    check_shape,
    checked,
    choice,
    describe,
    divides,
    floats,
    instance,
    integer,
    local_path,
    number,
    numbers,
    optional,
    printable,
    renamed,
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


@checked(steps=integer(1), rate=number("(0, 1]"), size=optional(integer(1)), x=floats("B", 2))
def _halve(steps, /, rate=0.5, *, size=None, x=None):
    """Halves."""
    return steps, rate, size, x


def test_declared_arguments_are_checked_and_converted():
    assert _halve(2) == (2, 0.5, None, None)
    assert _halve(np.int32(2), 1, size=None)[1:] == (1.0, None, None)
    assert isinstance(_halve(1, 1)[1], float)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((0,), {}, "^steps = 0: must be an integer >= 1$"),
        ((1, 0.0), {}, "^rate = 0.0: must be in \\(0, 1]$"),
        ((1,), {"rate": 2}, "^rate = 2.0: must be in \\(0, 1]$"),
        ((1,), {"size": 0}, "^size = 0: must be an integer >= 1$"),
        ((1,), {"x": np.zeros((3, 3))}, r"^x has shape \(3, 3\): must be \[B, 2\]$"),
        ((1,), {"x": np.zeros((3, 2), int)}, "^x has dtype int64: must be floats"),
    ],
)
def test_bad_declared_arguments_are_refused(args, kwargs, message):
    with pytest.raises(ValueError, match=message):
        _halve(*args, **kwargs)


def test_the_declaration_leaves_signature_and_docstring():
    assert str(inspect.signature(_halve)) == "(steps, /, rate=0.5, *, size=None, x=None)"
    assert (_halve.__name__, _halve.__doc__) == ("_halve", "Halves.")
    with pytest.raises(TypeError, match=r"_halve\(\) missing 1 required positional argument: 'steps'"):
        _halve()


def test_a_declaration_of_an_argument_that_does_not_exist_is_a_bug():
    with pytest.raises(AssertionError, match="_halve has no argument"):
        checked(step=integer(1))(_halve)


@pytest.mark.parametrize("whole", [12, (12, 24), np.array([12, 24])])
def test_a_divisor_passes(whole):
    check_divides("groups", 4, "channels", whole)


@pytest.mark.parametrize(("whole", "found"), [(10, "10"), ((12, 10), r"\(12, 10\)")])
def test_what_does_not_divide_is_refused(whole, found):
    with pytest.raises(ValueError, match=f"^groups = 4: must divide channels = {found}$"):
        check_divides("groups", 4, "channels", whole)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([3, 12], "^n contain 12: must be from 0 to 9$"),
        (np.array([-1]), "^n contain -1: must be from 0 to 9$"),
        (np.array([2**63], np.uint64), "^n contain 9223372036854775808: must be from 0 to 9$"),
        ([0.0], r"^n = \[0.0\]: must be integers$"),
        ([True], r"^n = \[True\]: must be integers$"),
        (["a"], r"^n = \['a'\]: must be integers$"),
    ],
)
def test_other_arrays_of_integers_are_refused(value, message):
    with pytest.raises(ValueError, match=message):
        check_integers("n", value, 0, 9)


def test_traced_integers_pass_and_traced_floats_do_not():
    jax.eval_shape(lambda n: check_integers("n", n, 0, 9), jnp.array([12]))
    with pytest.raises(ValueError, match="must be integers"):
        jax.eval_shape(lambda n: check_integers("n", [n, n], 0, 9), jnp.float32(1))


@dataclasses.dataclass(frozen=True)
class _Levels(Checked):
    low: float = dataclasses.field(metadata=number("[0, inf)") | below("high"))
    high: float = dataclasses.field(default=1.0, metadata=number("[0, inf)"))
    groups: int = dataclasses.field(default=1, metadata=integer(1) | divides("width"))
    width: int = dataclasses.field(default=6, metadata=integer(1))
    size: float = dataclasses.field(default=0.0, metadata=renamed("image_size", numbers("[0, inf)")))


def test_related_fields_pass():
    assert _Levels(0, groups=3) == _Levels(0.0, groups=3, size=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"low": 1}, "^low = 1.0: must be below high = 1.0$"),
        ({"low": 2, "high": NAN}, "^high = nan: must be >= 0 and finite$"),  # each field before the relations
        ({"low": 0, "groups": 4}, "^groups = 4: must divide width = 6$"),
        ({"low": 0, "groups": 0}, "^groups = 0: must be an integer >= 1$"),
        ({"low": 0, "size": [1.0, -1.0]}, "^image_size = -1.0: must be >= 0 and finite$"),
    ],
)
def test_related_fields_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        _Levels(**fields)


@dj.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Between(dj.samplers.DDIM):
    low: float = dataclasses.field(default=0.0, metadata=number() | below("high"))
    high: float = dataclasses.field(default=1.0, metadata=number())


def test_relations_are_not_checked_where_jax_rebuilds_a_sampler():
    leaves, structure = jax.tree.flatten(_Between())
    assert jax.tree.unflatten(structure, [object()] * len(leaves)).order == 1
    with pytest.raises(ValueError, match="^low = 1.0: must be below high = 1.0$"):
        _Between(low=1)


def test_traced_limits_pass():
    jax.eval_shape(lambda low: check_below("low", low, "high", 1.0), jnp.float32(2))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2Jcat", r"\x1b[2Jcat"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x07\x7f\x9b31m", r"\x07\x7f\x9b31m"),
        ("gnp.\u202etac", r"gnp.\u202etac"),
        ("\u2066x\u2069\u200f", r"\u2066x\u2069\u200f"),
        ("a\u2028b\u2029", r"a\u2028b\u2029"),
        ("\udcff.png", r"\udcff.png"),  # bytes that are not UTF-8, in the name of a file
    ],
)
def test_what_a_terminal_would_act_on_is_escaped(text, shown):
    assert printable(text) == shown
    assert printable(shown) == shown


@pytest.mark.parametrize("text", ["cat", "café", "cafe\u0301", "猫", "قطة", "👩\u200d🚀", r"C:\new", "a  b", ""])
def test_other_text_is_shown_as_it_is(text):
    assert printable(text) == text


@pytest.mark.parametrize(
    "refuse",
    [
        lambda text: dj.sources.Folder(path=text).open(),
        lambda text: local_path("path", f"s3://{text}"),
        lambda text: dj.train({text: {}}, "run"),
    ],
)
def test_no_message_holds_control_characters(refuse):
    with pytest.raises(ValueError, match="no-such") as error:
        refuse("no-such\x1b[31m\n\u202e")
    assert printable(str(error.value)) == str(error.value)
