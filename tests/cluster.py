"""Several processes that train or sample together over loopback, each with its share of 8 emulated devices."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

TESTS = Path(__file__).parent
DEVICES = 8


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(processes: int) -> dict[str, str]:
    """The environment of one of so many processes: its share of the devices, and the package of this checkout."""
    flags = f"--xla_force_host_platform_device_count={DEVICES // processes}"
    own = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": str(TESTS.parent), "PYTHONFAULTHANDLER": "1"}
    return os.environ | own


class Cluster:
    """`processes` times `diffusion-jax COMMAND`; a single one gets no flags for the others. Logs go to `logs`."""

    def __init__(self, logs: Path, command: Sequence[str], processes: int):
        logs.mkdir(parents=True, exist_ok=True)
        address = f"127.0.0.1:{free_port()}"
        self.logs, self.children = [logs / f"process_{i}.log" for i in range(processes)], []
        for i, log in enumerate(self.logs):
            join = [f"--coordinator_address={address}", f"--num_processes={processes}", f"--process_id={i}"]
            arguments = [*command, *join * (processes > 1)]
            with log.open("w") as output:
                self.children.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "diffusion_jax", *arguments],
                        stdout=output,
                        stderr=output,
                        env=environment(processes),
                        cwd=TESTS,
                    )
                )

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *exc: object) -> None:
        for child in self.children:
            child.kill()
            child.wait()

    def wait(self, timeout: float) -> list[int]:
        """The exit codes, once all have ended. Raises TimeoutError with the logs and stacks if they don't."""
        deadline = time.monotonic() + timeout
        while any(child.poll() is None for child in self.children):
            if time.monotonic() > deadline:
                for process, child in enumerate(self.children):
                    self.signal(process, signal.SIGABRT)  # Python then writes the stack of every thread
                    child.wait(10)
                raise TimeoutError(f"still running after {timeout} s:\n{self.text()}")
            time.sleep(0.05)
        return [child.returncode for child in self.children]

    def wait_for_file(self, path: Path, timeout: float = 120) -> None:
        """Returns once `path` exists and is not empty. Raises TimeoutError with the logs otherwise."""
        deadline = time.monotonic() + timeout
        while not (path.exists() and (path.is_dir() or path.stat().st_size)):
            if time.monotonic() > deadline or all(child.poll() is not None for child in self.children):
                raise TimeoutError(f"{path} did not appear:\n{self.text()}")
            time.sleep(0.02)

    def signal(self, process: int, number: int = signal.SIGTERM) -> None:
        self.children[process].send_signal(number)

    def text(self, process: int | None = None) -> str:
        """What one process has printed, or all."""
        logs = self.logs if process is None else [self.logs[process]]
        return "\n".join(f"== {log.name}\n{_read(log)[-3000:]}" for log in logs)


def _read(log: Path) -> str:
    """A log, without the list of modules that Python writes below the stacks of a process that is aborted."""
    lines = log.read_text(errors="replace").splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("Extension modules:"))
