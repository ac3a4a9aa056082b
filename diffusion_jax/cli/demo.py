"""Shows a run in a browser: generate images and inpaint.

    diffusion-jax demo --pretrained digits
    diffusion-jax demo --workdir runs/digits --port 8000

The page has the settings of `sample` (class, guidance, steps, sampler, seed, number), a grid, a strip or an animation,
and inpainting with a mask that is painted in the browser. The command that writes the same file is shown below each
result. It needs Gradio: pip install "diffusion_jax[demo]". Ctrl-C ends it.
"""

import errno
import os
import signal
import socket
import tempfile
import threading
from pathlib import Path
from typing import NoReturn

from absl.flags import FlagValues

from diffusion_jax.cli import flags
from diffusion_jax.cli.command import Command, Flag
from diffusion_jax.cli.terminal import one_line


def run(options: FlagValues) -> NoReturn:
    flags.check_run(options)
    check_address(options.host, options.port)
    from diffusion_jax.demo.page import build_page, import_gradio, serve
    from diffusion_jax.demo.results import Demo

    import_gradio()
    loaded = flags.load_run(options)
    with tempfile.TemporaryDirectory(prefix="diffusion_jax_demo_", ignore_cleanup_errors=True) as folder:
        keep_below(folder)
        name, load = name_run(options)
        page = build_page(Demo(loaded, name, load, Path(folder)))
        stopped = catch_signals()
        address = serve(page, options.host, options.port)
        print(one_line(f"{name} at {address}; Ctrl-C ends it"), flush=True)
        stopped.wait()
    os._exit(0)  # The interpreter would end threads that are generating, inside of JAX, which aborts the process.


def name_run(options: FlagValues) -> tuple[str, tuple[str, ...]]:
    """The name of the run, and the flags that load it."""
    flag = "pretrained" if options.pretrained else "workdir"
    name = str(options[flag].value)
    return name, (f"--{flag}", name, *["--allow_code"] * options.allow_code)


def keep_below(folder: str) -> None:
    """Makes JAX keep its programs in a directory, because each inpainting is compiled anew, and Gradio its uploads."""
    import jax

    os.environ["GRADIO_TEMP_DIR"] = folder
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", os.path.join(folder, "programs"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def check_address(host: str, port: int) -> None:
    """Raises OSError if another program uses the port, or if the host is not an address of this machine.

    >>> check_address("127.0.0.1", 0)
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OSError(f"--port={port}: another program uses it; choose another port") from error
        if error.errno == errno.EACCES:
            raise OSError(f"--port={port}: is reserved for the system; choose one from 1024 on") from error
        reason = f"must be an address of this machine ({error.strerror})"
        raise OSError(f"--host={host}: {reason}; use 127.0.0.1, or 0.0.0.0 for all of its addresses") from error


def catch_signals() -> threading.Event:
    """An event that SIGINT and SIGTERM set from now on, instead of ending the process."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    return stopped


COMMAND = Command(
    name="diffusion-jax demo",
    text=str(__doc__),
    flags=(
        *flags.RUN,
        Flag("host", str, "Address to listen on; 0.0.0.0 lets other machines use the page.", "127.0.0.1"),
        Flag("port", int, "Port of the page.", 7860, limits={"lower_bound": 1, "upper_bound": 65535}),
        flags.ALLOW_CODE,
    ),
    run=run,
)
