import pytest

from diffusion_jax.runtime.errors import first_line


@pytest.mark.parametrize(
    ("why", "line"),
    [
        (ValueError("\n  one\ntwo"), "one"),
        (RuntimeError(), "RuntimeError"),
        (OSError("x" * 1000), "x" * 300),
        ("as text", "as text"),
    ],
)
def test_it_is_one_line_and_never_empty(why, line):
    assert first_line(why) == line
