import pytest
from html_tree import read_page

from diffusion_jax.report.html import Html, element, join

NASTY = ["<script>alert(1)</script>", '" onload="alert(1)', "' x='", "&lt;b&gt;", "a&b", "</style>", "]]>"]


@pytest.mark.parametrize("text", NASTY)
def test_text_and_attributes_are_what_they_were(text):
    (p,) = read_page(element("p", text, title=text)).children
    assert p.text == text
    assert p.attributes == {"title": text}
    assert join(text) != Html(text)


def test_controls_and_directions_are_shown():
    (p,) = read_page(element("p", "a\x00\x1b\u202eb\ud800")).children
    assert p.text == r"a\x00\x1b\u202eb\ud800"
    p_bytes = element("p", "\udcff").encode()
    assert p_bytes == rb"<p>\udcff</p>"
