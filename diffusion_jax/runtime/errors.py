"""What other people's exceptions say, in one line."""


def first_line(why: object) -> str:
    """The first line of an exception's text, at most 300 characters; its type's name where it has none."""
    text = str(why).strip()
    return text.splitlines()[0][:300] if text else type(why).__name__
