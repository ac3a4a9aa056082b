"""The lock files name every package with its hash, and what they name is enough to run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOCKS = sorted((ROOT / "requirements").glob("lock-*.txt"))


def test_there_is_one_for_each_python_that_is_tested():
    assert [path.name for path in LOCKS] == ["lock-3.11.txt", "lock-3.13.txt"]


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_every_package_has_a_version_and_hashes_and_no_index_is_named(path):
    text = path.read_text()
    packages = text.replace("\\\n", " ").splitlines()
    assert len(packages) > 30
    for package in packages:
        assert re.fullmatch(r"\S+==\S+( ; [^-]+)?( +--hash=sha256:[0-9a-f]{64})+ *", package), package
    assert not re.search(r"https?://|index-url|find-links", text)


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_every_requirement_is_locked(path):
    locked = {line.split("==")[0].split("[")[0] for line in path.read_text().splitlines() if "==" in line}
    setup = (ROOT / "setup.cfg").read_text()
    required = re.search(r"install_requires =\n((?:    .*\n|#.*\n)+)", setup)[1]
    names = {re.split(r"[\[>=<;~ ]", line.strip())[0] for line in required.splitlines() if line.strip()[:1] not in "#"}
    assert len(names) > 10
    assert {name.lower().replace("_", "-") for name in names} <= locked


@pytest.mark.slow
def test_it_installs_into_a_fresh_environment_and_the_package_runs(tmp_path):
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    lock = ROOT / "requirements" / f"lock-{version}.txt"
    if not lock.exists():
        pytest.skip(f"there is no lock file for Python {version}")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    python = tmp_path / "env" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps", "-r", lock]
    subprocess.run(install, check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", ROOT], check=True)
    code = "import diffusion_jax as dj, jax; dj.samplers.DDIM(); print(dj.schedules.Cosine().alpha(jax.numpy.zeros(1)))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
