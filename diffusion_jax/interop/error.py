"""The error for files that cannot be imported, and how text from such a file is quoted in it."""

SAVE_AGAIN = "save only the weights, torch.save(model.state_dict(), path)"


class InteropError(ValueError):
    """Weights that cannot be imported. The message is one line that says why and what to do.

    >>> try:
    ...     dj.interop.load("ckpt.pt", heads=3)
    ... except dj.interop.InteropError as error:
    ...     print(error)
    ckpt.pt: heads = 3: must divide the 8 channels of attention
    """


def quote(text: str) -> str:
    """Text from a file, at most 100 characters and printable, for a message of one line."""
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= 100 else f"{text[:100]}..."
