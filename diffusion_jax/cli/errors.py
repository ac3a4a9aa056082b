"""The errors of all commands: one line and an exit code."""

import os
import signal
import sys
from collections.abc import Callable

from absl import flags


def exit_code(command: Callable[[], int | None]) -> int:
    """Runs a command and returns its exit code.

    An expected error is reported in one line on stderr, with exit code 1: wrong flags, configs, files, checkpoints
    and devices. Other exceptions are defects and keep their traceback.

    >>> exit_code(lambda: None)
    0
    """
    try:
        code = command() or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        if not _is_expected(error):
            raise
        print(f"error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 1


def _is_expected(error: Exception) -> bool:
    if isinstance(error, flags.Error | ValueError | OSError):
        return True
    from diffusion_jax.runtime.checkpoint import CheckpointError  # imports JAX

    return isinstance(error, CheckpointError)
