"""What the commands write to the terminal: text of users is escaped, see `validation.printable`."""

import logging


def one_line(text: str) -> str:
    r"""`text` in one line, without control characters.

    >>> one_line("a\x1b[31m.png")
    'a\\x1b[31m.png'
    """
    if text.isprintable():
        return text
    from diffusion_jax.validation import printable  # imports JAX, for which a plain line need not wait

    return printable(text)


def install_logging(prefix: str = "") -> None:
    """Logs warnings of all packages to stderr, one line each that begins with `prefix`."""
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLineFormatter(f"{prefix}%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


class _OneLineFormatter(logging.Formatter):
    """Escapes the message; a traceback after it keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return one_line(super().formatMessage(record))
