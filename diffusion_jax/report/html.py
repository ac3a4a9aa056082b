"""HTML as values. Text is escaped where it enters an element, so that nothing else has to think of it."""

import html

from diffusion_jax.validation import printable

__all__ = ["Html", "element", "join"]

# Elements without an end. Others, those of SVG too, have one.
_VOID = ("img", "input", "meta")


class Html(str):
    """Text that is HTML already. Any other text is escaped by `element` and `join`."""

    __slots__ = ()


def element(tag: str, *children: str, **attributes: object) -> Html:
    """An element. In names of attributes, "_" stands for "-", and one at the end is dropped; None leaves one out.

    >>> element("p", "a < b", Html("<br>"), class_="note", data_step=3, hidden=None)
    '<p class="note" data-step="3">a &lt; b<br></p>'
    """
    listed = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{_escape_text(str(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    end = "" if tag in _VOID else f"</{tag}>"
    return Html(f"<{tag}{listed}>{join(*children)}{end}")


def join(*children: str) -> Html:
    """Elements and texts one after the other.

    >>> join("1 < 2", element("b", "!"))
    '1 &lt; 2<b>!</b>'
    """
    return Html("".join(child if isinstance(child, Html) else _escape_text(child) for child in children))


def _escape_text(text: str) -> str:
    """Text for an element or an attribute in quotes; control characters and directions of writing are shown."""
    return html.escape(printable(text))
