import os
import signal
import subprocess
import sys

import pytest
from absl import flags

from diffusion_jax.cli.errors import exit_code
from diffusion_jax.runtime.errors import CheckpointError


def raising(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    "error",
    [ValueError("two\n  lines"), OSError("two lines"), CheckpointError("two lines"), flags.Error("two lines")],
    ids=lambda error: type(error).__name__,
)
def test_an_expected_error_is_one_line(error, capsys):
    assert exit_code(raising(error)) == 1
    assert capsys.readouterr() == ("", "error: two lines\n")


def test_control_characters_of_an_error_are_escaped(capsys):
    assert exit_code(raising(OSError("cat\x1b[31m\u202e.png: \x9bcannot be read"))) == 1
    assert capsys.readouterr().err == "error: cat\\x1b[31m\\u202e.png: \\x9bcannot be read\n"


def test_an_error_without_text_is_named(capsys):
    assert exit_code(raising(ValueError())) == 1
    assert capsys.readouterr().err == "error: ValueError\n"


def test_a_defect_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        exit_code(lambda: 1 // 0)


def test_an_interrupt_is_one_line(capsys):
    assert exit_code(raising(KeyboardInterrupt())) == 128 + signal.SIGINT
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (7, 7)])
def test_the_exit_code_of_the_command_is_returned(returned, code):
    assert exit_code(lambda: returned) == code


def test_a_closed_pipe_is_silent(monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert exit_code(lambda: print("text")) == 128 + signal.SIGPIPE
    assert capsys.readouterr().err == ""


def test_a_platform_without_a_device_is_one_line(tmp_path):
    command = [sys.executable, "-m", "diffusion_jax", "verify", "--sampler", "DDIM"]
    done = subprocess.run(command, env=os.environ | {"JAX_PLATFORMS": "nonsense"}, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: JAX_PLATFORMS=nonsense: JAX finds no such device")
    assert done.stderr.count("\n") == 1
