"""Compiled programs that the next process finds, where nobody else can put any."""

import os
import subprocess
import sys

import pytest

from diffusion_jax.runtime.user_cache import keep_programs

DIRECTORY = "JAX_COMPILATION_CACHE_DIR"


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "diffusion_jax" / "programs"


def test_programs_are_kept_in_a_directory_of_the_user(home):
    environment = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "7"}
    keep_programs(environment)
    (directory,) = home.iterdir()
    assert environment.pop(DIRECTORY) == str(directory)
    assert directory.stat().st_mode & 0o777 == 0o700
    assert environment.pop("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS") == "7"  # as it was
    assert int(environment.pop("JAX_COMPILATION_CACHE_MAX_SIZE")) > 0  # not without end
    assert not environment


@pytest.mark.parametrize("name", [DIRECTORY, "JAX_ENABLE_COMPILATION_CACHE"])
def test_what_the_environment_says_counts(name, home):
    environment = {name: "false"}
    keep_programs(environment)
    assert environment == {name: "false"}
    assert not home.exists()


def test_cpus_with_other_instructions_have_programs_of_their_own(home, tmp_path):
    found = []
    for i, text in enumerate(["flags\t: avx2 fma\nbugs: x", "flags\t: avx2 fma\nbugs: y", "flags\t: avx512f", ""]):
        (tmp_path / f"cpu{i}").write_text(f"processor: 0\n{text}\n")
        keep_programs(environment := {}, tmp_path / f"cpu{i}")
        found.append(environment[DIRECTORY])
    keep_programs(environment := {}, tmp_path / "missing")
    found.append(environment[DIRECTORY])
    assert found[0] == found[1]
    assert len(set(found)) == 4


@pytest.mark.parametrize("mode", [0o770, 0o707])
@pytest.mark.parametrize("outer", [False, True])
def test_a_directory_that_others_can_write_in_is_not_used(mode, outer, home, caplog):
    keep_programs({})
    (directory,) = home.iterdir()
    open_to_others = home if outer else directory
    open_to_others.chmod(mode)
    keep_programs(environment := {})
    assert environment == {}
    (message,) = (record.getMessage() for record in caplog.records)
    assert f"are not kept ({open_to_others} can be written by others; use chmod 700" in message


@pytest.mark.parametrize("place", ["/dev/null/x", "~nobody-has-this-name/x"])
def test_a_directory_that_cannot_be_made_is_a_warning(place, caplog, monkeypatch):
    monkeypatch.setattr("diffusion_jax.runtime.user_cache.user_cache", lambda: place)
    keep_programs(environment := {})
    assert environment == {}
    assert len(caplog.records) == 1


def test_a_second_process_finds_the_programs_of_the_first(home):
    """As typed: the command line sets the cache before JAX is imported."""
    code = (
        "import sys; from diffusion_jax.cli.main import main; sys.argv = ['diffusion-jax', '--help']; main()\n"
        "import jax, jax.numpy as jnp; jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((3, 3)))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION")}
    environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_LOG_COMPILES": "1"}

    def run() -> str:
        return subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True).stderr

    first, second = run().decode(), run().decode()
    (directory,) = home.iterdir()
    assert any("lambda" in path.name for path in directory.iterdir())
    assert "Finished XLA compilation of jit(<lambda>)" in first
    assert "Persistent compilation cache hit for 'jit__lambda'" in second
    assert "Persistent compilation cache hit for 'jit__lambda'" not in first
