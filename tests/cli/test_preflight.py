import json
from pathlib import Path

import pytest

from diffusion_jax.cli.main import main

TESTS = Path(__file__).parents[1]
CONFIG = """
import sys
sys.path.insert(0, {tests!r})
import ml_collections, tiny
def get_config():
    return ml_collections.ConfigDict(tiny.config(tiny.AFFINE))
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(CONFIG.format(tests=str(TESTS)))
    return tmp_path


def test_the_report_and_its_figures(here, capsys):
    arguments = ["--workdir=run", "--config.train.steps=500", "--timed_steps=2", "--json=new/out.json"]
    assert main(["preflight", "--config", "mine.py", *arguments]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Run\n  run      run: 500 steps\n  network  Affine, 13 parameters\n")
    assert out.endswith("\nNo warnings.\nfigures in new/out.json\n")
    assert max(map(len, out.splitlines())) <= 100
    figures = json.loads(Path("new/out.json").read_text())
    assert (figures["run"]["steps"], figures["run"]["parameters"], figures["fits"]) == (500, 13, True)
    assert figures["seconds_left"] == pytest.approx(500 * figures["speed"]["seconds"])
    assert not (here / "run").exists()


def test_a_run_that_does_not_fit_ends_with_code_1(here, capsys, monkeypatch):
    monkeypatch.setattr("diffusion_jax.preflight.check.find_capacity", lambda mesh: 100)
    assert main(["preflight", "--config", "mine.py"]) == 1
    assert "too much" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.train.stpes=5"], "config.train.stpes: there is no such field; did you mean steps"),
        (["--config.train.batch_size=30"], "config.train: batch_size = 30: must be divisible by the 8 devices; use 24"),
        (["--config.mesh.fsdp=16"], "config.mesh: data = -1, fsdp = 16: data * fsdp must be the 8 devices"),
        (["--config.data.name=NPZ"], "config.data: missing a required argument: 'path'"),
        (["--json=out.txt"], "--json=out.txt: the ending must be .json"),
        (["--timed_steps=-1"], "flag --timed_steps=-1"),
        (["--tpu=v4:2x2x1"], "tpu = v4:2x2x1: must be one of v5e, v5p, v6e"),
        (["--tpu=v5e:2x2", "--num_processes=2"], "--num_processes: does not apply to --tpu"),
        (["--accept=train.steps"], "accept = train.steps: needs a run to go on with"),
        (["--workdir=s3://bucket/run"], "workdir = s3://bucket/run: must be a path of this machine or gs://bucket/run"),
        (["--workdir=mine.py/run"], "workdir"),
        (["stray"], 'unexpected argument "stray"'),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(arguments, message, here, capsys):
    assert main(["preflight", "--config", "mine.py", *arguments]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1
