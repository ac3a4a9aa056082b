"""diffusion-jax train: errors in this process, signals in a process of its own."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffusion_jax.cli.main import main

TESTS = Path(__file__).parents[1]
CONFIG = """
import sys
sys.path.insert(0, {tests!r})
import ml_collections, tiny
def get_config():
    return ml_collections.ConfigDict(tiny.config(tiny.AFFINE, checkpoint_every=100_000))
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("configs") / "tiny_config.py"
    path.write_text(CONFIG.format(tests=str(TESTS)))
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.train.stpes=5"], "config.train.stpes: there is no such field; did you mean steps"),
        (["--config", "nowhere.py"], "--config=nowhere.py: must be a file or one of cifar10, digits, folder, mnist"),
        (["--config.train.steps=many"], "--config.train.steps=many: must be an integer (8)"),
        (["--config.data.size=48x"], "config.data.size: there is no such field"),
        (["--config.sampler=DDIM(0.5)"], '--config.sampler "DDIM(0.5)": must be a name, or as in'),
        (["--config.train.steps=0"], "config.train: steps = 0: must be an integer >= 1"),
        (["stray"], 'unexpected argument "stray"; use --flag=value or --noflag'),
        (["--config.schedule.name=Cosin"], 'config.schedule.name = "Cosin"'),
        (["--workdir="], "--workdir: required"),
    ],
)
def test_bad_input_ends_with_one_line_and_nothing_written(arguments, message, config, tmp_path, capsys):
    assert main(["train", "--config", str(config), "--workdir", str(tmp_path / "run"), *arguments]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_config_is_required(tmp_path, capsys):
    assert main(["train", "--workdir", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: --config: required, a file or one of cifar10, digits")


def test_help_lists_every_field_of_the_config_with_its_overrides(config, capsys):
    assert main(["train", "--config", str(config), "--config.train.steps=7", "--help"]) == 0
    out = capsys.readouterr().out
    for line in ("--workdir=", "--config.train.steps = 7\n", "--config.sampler.eta = 0.0", "--config.mesh.fsdp = 1"):
        assert f"  {line}" in out


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_resumes(config, tmp_path, capsys, caplog):
    command = ["train", "--config", str(config), "--workdir", str(tmp_path), "--config.train.steps=100000"]
    process = subprocess.Popen(
        [sys.executable, TESTS.parent / "train.py", *command[1:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    record = tmp_path / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while not (record.exists() and record.read_text()) and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert re.search(r"stopped after step \d+; run the same command to resume$", err.strip())
    (step,) = [int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()]

    before = signal.getsignal(signal.SIGTERM)
    assert main([*command[:-1], f"--config.train.steps={step + 2}"]) == 0
    captured = capsys.readouterr()
    assert f"resuming after step {step}" in captured.err
    assert captured.out == f"done; samples are in {tmp_path}/samples.png\n"
    assert (tmp_path / "samples.png").exists()
    assert signal.getsignal(signal.SIGTERM) is before
