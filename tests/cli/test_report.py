import re
import subprocess
import sys

import pytest
from html_tree import read_page
from run_files import make_run

from diffusion_jax.cli.main import main


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "a")
    make_run(tmp_path / "b, c")
    return tmp_path


def test_the_command_writes_a_page(here, capsys):
    assert main(["report", "--workdir", "a"]) == 0
    assert re.fullmatch(r"a in report.html, \d\d kB\n", capsys.readouterr().out)
    assert read_page((here / "report.html").read_text()).find("h1")[0].text == "a"


def test_several_runs_and_another_name(here, capsys):
    assert main(["report", '--workdir=a,"b, c"', "--out=new/both.html", "--grids=1"]) == 0
    page = read_page((here / "new" / "both.html").read_text())
    assert [name.text for name in page.find("h1")[0].find("span", "run")] == ["a", "b, c"]
    assert len(page.find("img")) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--workdir: required; diffusion-jax report --help shows an example"),
        (["--workdir="], "--workdir: required"),
        (["--workdir=a,"], "workdir = '': must be a path"),
        (["--workdir=nowhere"], "workdir = nowhere: does not exist; use the --workdir of a training"),
        (["--workdir=a,a"], "workdir = a: is named twice"),
        (["--workdir=a", "--out=a.png"], "--out=a.png: the ending must be .html"),
        (["--workdir=a", "--out=gs://bucket/a.html"], "--out = gs://bucket/a.html: must be a path of this machine"),
        (["--workdir=a", "--grids=0"], "flag --grids=0: 0 is not a positive integer"),
        (["--workdir=a", "b"], 'unexpected argument "b"'),
        (["--workdir=a", "--out=/proc/x/a.html"], "/proc/x"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(here, arguments, message, capsys):
    assert main(["report", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)
    assert not (here / "report.html").exists()


def test_no_device_is_asked_for(here):
    """A training that goes on may hold the only one."""
    code = "import sys; from diffusion_jax.cli.main import main; sys.exit(main(['report', '--workdir=a']))"
    environment = {"JAX_PLATFORMS": "no_such_device", "PATH": "", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=here, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
