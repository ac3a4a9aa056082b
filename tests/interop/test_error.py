import pytest

from diffusion_jax.interop.error import quote


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("downs.0.conv", "downs.0.conv"),
        ("läßt", "läßt"),
        ("a\nb", "'a\\nb'"),
        ("\x1b[31m", "'\\x1b[31m'"),
        ("x" * 100, "x" * 100),
        ("x" * 101, "x" * 100 + "..."),
        ("\n" * 100, "'" + "\\n" * 49 + "\\..."),
    ],
)
def test_quoted_text_is_printable_and_short(text, quoted):
    assert quote(text) == quoted
