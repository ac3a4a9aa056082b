"""The errors of all commands: one line and an exit code."""

import os
import signal
import sys
import traceback
from collections.abc import Callable

from absl import flags

from diffusion_jax.cli.terminal import one_line
from diffusion_jax.runtime.errors import RunError


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
        if _is_expected(error):
            text = " ".join(str(error).split()) or type(error).__name__
            print(one_line(f"error: {text}"), file=sys.stderr)
        elif _works_with_others():
            traceback.print_exc()
        else:
            raise
        if _works_with_others():
            # Without JAX's own clean-up, which waits for the others, which wait for this process.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)
        return 1


def _works_with_others() -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized() and jax.process_count() > 1


def _is_expected(error: Exception) -> bool:
    return isinstance(error, flags.Error | ValueError | OSError | RunError)
