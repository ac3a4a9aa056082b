"""Runs of a grey and of a coloured network of three numbers, in directories that a shell would split."""

import shlex
from pathlib import Path

import numpy as np
import pytest
import tiny

import diffusion_jax as dj
from diffusion_jax.cli.main import main
from diffusion_jax.demo.results import Demo
from diffusion_jax.interop.run_directory import write_run


def write(directory: Path, channels: int) -> Path:
    params = {"w": np.float32(0.3), "u": np.float32(0.1), "classes": np.linspace(-0.9, 0.9, 11, dtype="f4")}
    config = tiny.config({"name": "tiny:Numbered", "num_classes": 10})
    write_run(directory, config, params, (8, 8, channels), "numbers of this test")
    return directory


@pytest.fixture(scope="session")
def workdirs(tmp_path_factory) -> dict[str, Path]:
    parent = tmp_path_factory.mktemp("my runs")
    return {name: write(parent / f"{name}'s", channels) for name, channels in (("grey", 1), ("colour", 3))}


@pytest.fixture
def make_demo(workdirs, tmp_path):
    """Makes a `Demo` of the run "grey" or "colour"; its files go below `tmp_path`."""

    def make(name: str = "grey") -> Demo:
        folder = tmp_path / "a, b"
        folder.mkdir(exist_ok=True)
        run = dj.load(workdirs[name], allow_code=True)
        load = ("--workdir", str(workdirs[name]), "--allow_code")
        return Demo(run, str(workdirs[name]), load, folder)

    return make


@pytest.fixture
def run_command(tmp_path, monkeypatch):
    """Runs a line of shell in this process, in a directory of its own, which becomes the current one."""

    def run(command: str) -> None:
        program, *arguments = shlex.split(command)
        assert program == "diffusion-jax"
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert main(arguments) == 0

    return run
