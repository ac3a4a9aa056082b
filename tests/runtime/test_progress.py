"""The progress bar: plain text at the command line, and in a notebook without a warning."""

import json
import subprocess
import sys

import pytest

# What a notebook's kernel loads, and whether ipywidgets can be imported.
CODE = """
import json, sys
if {kernel}:
    import ipykernel.zmqshell
if not {widgets}:
    sys.modules["ipywidgets"] = None
from diffusion_jax.runtime.progress import progress_bar
print(json.dumps([each.__module__ for each in progress_bar.__mro__]))
"""


def bases(**settings: bool) -> list[str]:
    """The modules of the bar and its base classes, in a process of its own; it must warn of nothing."""
    command = [sys.executable, "-c", CODE.format(**settings)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return json.loads(done.stdout)


def test_the_command_line_has_a_line_of_text():
    assert "tqdm.notebook" not in bases(kernel=False, widgets=True)


def test_a_notebook_has_a_widget():
    pytest.importorskip("ipykernel")
    pytest.importorskip("ipywidgets")
    assert "tqdm.notebook" in bases(kernel=True, widgets=True)


def test_a_notebook_without_ipywidgets_has_a_line_of_text_and_no_warning():
    pytest.importorskip("ipykernel")
    assert "tqdm.notebook" not in bases(kernel=True, widgets=False)
