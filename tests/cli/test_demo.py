"""diffusion-jax demo. The page itself is tested in tests/demo/."""

import builtins
import socket
from pathlib import Path

import pytest

import diffusion_jax as dj
from diffusion_jax.cli.main import main

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def nothing_is_loaded(monkeypatch):
    monkeypatch.setattr(dj, "load", lambda *args, **kwargs: pytest.fail("the run was loaded"))


def test_a_port_in_use_is_named(nothing_is_loaded, capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert main(["demo", "--workdir=run", f"--port={port}"]) == 1
    assert capsys.readouterr().err == f"error: --port={port}: another program uses it; choose another port\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--workdir: required, or --pretrained, such as"),
        (["--workdir=run", "--host=203.0.113.7"], "--host=203.0.113.7: must be an address of this machine"),
        (["--workdir=run", "--host=no.such.host.invalid"], "--host=no.such.host.invalid: must be an address"),
        (["--workdir=run", "--port=0"], "flag --port=0: 0 is not an integer in the range [1, 65535]"),
        (["--workdir=run", "--share"], "Unknown command line flag 'share'"),
    ],
)
def test_bad_input_ends_with_one_line(flags, message, nothing_is_loaded, capsys):
    assert main(["demo", *flags]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1


def test_without_gradio_the_extra_is_named(nothing_is_loaded, monkeypatch, capsys):
    imported = builtins.__import__

    def import_others(name, *args, **kwargs):
        if name == "gradio":
            raise ImportError(name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", import_others)
    assert main(["demo", "--workdir=run", f"--port={free_port()}"]) == 1
    expected = 'error: demo needs Gradio, which is not installed: pip install "diffusion_jax[demo]"\n'
    assert capsys.readouterr().err == expected


def test_a_run_without_a_checkpoint_ends_with_one_line(capsys):
    pytest.importorskip("gradio", reason='needs Gradio: pip install -e ".[demo]"')
    assert main(["demo", "--workdir=nowhere", f"--port={free_port()}"]) == 1
    assert capsys.readouterr().err.startswith("error: no checkpoint in nowhere; train first")
