"""Errors of a run, and one-line summaries of third-party exceptions."""


class RunError(RuntimeError):
    """A run cannot go on or cannot be read; the text says what to do."""


class CheckpointError(RunError):
    """A checkpoint cannot be written, or no checkpoint can be read."""


class DamageError(CheckpointError):
    """What was read is not what was saved."""


class TargetError(CheckpointError):
    """A checkpoint holds other items, shapes or dtypes than requested; it is not damaged."""


def first_line(error: object) -> str:
    """The first line of an error's text, at most 300 characters; the name of its type if the text is empty."""
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
