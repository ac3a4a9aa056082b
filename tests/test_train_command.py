"""train.py as a user runs it: its exit codes and its one line of error."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
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
    path.write_text(CONFIG.format(tests=str(ROOT / "tests")))
    return path


def start(*arguments) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, ROOT / "train.py", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.train.stpes=5"], 'error: the config has no field "stpes"; did you mean "steps"?'),
        (["--config", "nowhere.py"], "nowhere.py"),
        (["--config.train.steps=many"], "train.steps"),
        (["--config.train.steps=0"], "error: config.train: steps = 0: must be at least 1"),
        (["stray"], 'error: "stray": is no flag'),
        (["--config.schedule.name=Cosin"], 'error: config.schedule.name = "Cosin"'),
    ],
)
def test_bad_input_ends_with_an_error_and_nothing_written(arguments, message, config, tmp_path):
    process = start("--config", config, "--workdir", tmp_path / "run", *arguments)
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert message in err
    assert not (tmp_path / "run").exists()
    assert "Traceback" not in err
    if message.startswith("error: "):
        assert err.count("\n") == 1  # that line and no other


def test_sigterm_saves_and_the_same_command_goes_on(config, tmp_path):
    command = ("--config", config, "--workdir", tmp_path, "--config.train.steps=100000")
    process = start(*command)
    record = tmp_path / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while not (record.exists() and record.read_text()) and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert err.strip().endswith("stopped; the same command goes on from here")
    (step,) = [int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()]

    process = start(*command[:-1], f"--config.train.steps={step + 2}")
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert f"resuming after step {step}" in err
    assert (tmp_path / "samples.png").exists()
