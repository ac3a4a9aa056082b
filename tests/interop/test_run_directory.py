import json

import jax
import numpy as np
import pytest
import torch_files

import diffusion_jax as dj
from diffusion_jax.config.components import ConfigError
from diffusion_jax.interop.run_directory import write_run
from diffusion_jax.runtime.files import lock_workdir


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    shapes = torch_files.film_shapes(4, (1,), (False,), 1, 4)
    path = tmp_path_factory.mktemp("theirs") / "ckpt.pt"
    torch_files.save(path, torch_files.float32(torch_files.filled(shapes)))
    return dj.interop.load(path, image_size=8, steps=20)


def write(workdir, imported):
    write_run(workdir, imported.config, imported.params, imported.image_shape, "ckpt.pt")


@pytest.mark.parametrize("exists", [True, False])
def test_the_directory_loads_as_a_run(tmp_path, imported, exists):
    workdir = tmp_path / "a" / "run"
    if exists:
        workdir.mkdir(parents=True)
    write(workdir, imported)
    run = dj.load(workdir)
    jax.tree.map(np.testing.assert_array_equal, run.params, imported.params)
    assert run.network.model == imported.model
    assert run.network.image_shape == imported.image_shape
    assert run.schedule == imported.schedule
    assert [path.name for path in (workdir / "checkpoints").iterdir()] == ["0"]
    content = json.loads((workdir / "config.json").read_text())
    assert content["imported_from"] == "ckpt.pt"
    assert content["data"] is None
    assert content["config"]["model"]["name"] == "FiLMUNet"


def test_a_directory_with_files_is_refused_and_not_changed(tmp_path, imported):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(ConfigError, match="holds files already; use a new directory"):
        write(tmp_path, imported)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_directory_that_cannot_be_written_is_one_line(tmp_path, imported):
    (tmp_path / "file").write_text("mine")
    for workdir in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(OSError, match="cannot be written") as error:
            write(workdir, imported)
        assert str(error.value).startswith(f"workdir {workdir} cannot be written (")
        assert "\n" not in str(error.value)


def test_the_directory_is_locked_while_it_is_written(tmp_path, imported, monkeypatch):
    seen = []

    def watch(self, *args):
        with pytest.raises(OSError, match="in use"), lock_workdir(tmp_path / "run"):
            pass
        seen.append(args)

    monkeypatch.setattr("diffusion_jax.runtime.checkpoint.Checkpoints.save", watch)
    write(tmp_path / "run", imported)
    assert len(seen) == 1


def test_a_config_that_does_not_build_writes_nothing(tmp_path, imported):
    config = imported.config | {"schedule": {"name": "Cosin"}}
    with pytest.raises(ConfigError, match="schedule"):
        write_run(tmp_path / "run", config, {}, (8, 8, 1), "x.pt")
    assert not (tmp_path / "run").exists()
