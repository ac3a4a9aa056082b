"""The wheel, built from the tracked files and used in an empty directory."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def copy_tracked_files(to: Path) -> None:
    """Building in a copy leaves nothing in the checkout."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git clone")
    for name in listed.stdout.splitlines():
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, to / name)


def run(*command: object, **kwargs: object) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, **kwargs)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_directory(tmp_path):
    copy_tracked_files(tmp_path / "source")
    run(sys.executable, "-m", "pip", "wheel", tmp_path / "source", "--no-deps", "--wheel-dir", tmp_path / "dist")
    (wheel,) = (tmp_path / "dist").iterdir()
    site, empty = tmp_path / "site", tmp_path / "empty"
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--target", site, wheel)
    empty.mkdir()
    environment = os.environ | {"PYTHONPATH": str(site), "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}

    def diffusion_jax(*arguments: str) -> str:
        return run(site / "bin" / "diffusion-jax", *arguments, cwd=empty, env=environment)

    assert "done" in diffusion_jax("train", "--config", "digits:smoke", "--workdir", "runs/digits")
    assert "4 images in samples.png" in diffusion_jax("sample", "--workdir", "runs/digits", "--num_samples=4")
    assert (empty / "samples.png").exists()
    assert "all pass" in diffusion_jax("verify", "--sampler", "DDIM()", "--schedule", "Cosine()")
