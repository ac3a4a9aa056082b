"""python -m diffusion_jax.interop, called in this process, and what sample.py makes of it."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
import torch_files
from absl import flags
from absl.testing import flagsaver

import diffusion_jax as dj
from diffusion_jax.config.components import ConfigError
from diffusion_jax.interop import __main__ as command
from diffusion_jax.workdir import write_run

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    shapes = torch_files.film_shapes(4, (1,), (False,), 1, 4)
    tensors = torch_files.float32(torch_files.filled(shapes))
    folder = tmp_path_factory.mktemp("theirs")
    return torch_files.save(folder / "ckpt.pt", {"net": {"state_dict": torch_files.state_dict(tensors)}})


@pytest.fixture(scope="module")
def workdir(checkpoint, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "theirs"
    run(checkpoint, "--workdir", folder, "--image_size", 8, "--steps=20")
    return folder


def run(*arguments) -> None:
    command.main(["interop", *map(str, arguments)])


def test_the_folder_is_loaded_as_a_run(checkpoint, workdir):
    loaded = dj.load(workdir)
    imported = dj.interop.load(checkpoint, image_size=8, steps=20)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, imported.params)
    assert loaded.network.image_shape == (8, 8, 1)
    assert loaded.network.model == imported.model
    assert loaded.schedule == imported.schedule == dj.schedules.Cosine(20, min_beta=1e-4, max_beta=0.9999)
    assert loaded.config["optimizer"]["b2"] == 0.95


def test_sample_py_draws_from_it_what_the_loaded_network_does(workdir, checkpoint, tmp_path):
    sys.path.insert(0, str(ROOT))
    import sample

    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["sample.py", "--workdir", ""])
    out = tmp_path / "x.npz"
    with flagsaver.flagsaver(workdir=str(workdir), out=str(out), num_samples=3, steps=2):
        sample.main([])
    imported = dj.interop.load(checkpoint, image_size=8, steps=20)
    denoise = dj.clipped(imported.denoiser(), imported.schedule)
    sampler = dj.samplers.DDPM(variance="large")
    shape = (3, *imported.image_shape)
    x = dj.sample(jax.random.key(0), denoise, imported.schedule, shape, sampler=sampler, steps=2)
    with np.load(out) as arrays:
        np.testing.assert_allclose(arrays["image"], dj.pixels.to_uint8(x), atol=1)
        assert arrays["image"].std() > 1


def test_training_in_it_is_refused_before_anything_is_read(workdir):
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    nowhere = tiny.config() | {"data": {"name": "NPZ", "path": "nowhere.npz"}}
    with pytest.raises(ConfigError, match="weights imported from ckpt.pt, without .*; use another directory"):
        dj.train(nowhere, workdir)
    assert before == {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}


def test_what_is_written_says_where_it_is_from(workdir, checkpoint, tmp_path, capsys):
    assert json.loads((workdir / "config.json").read_text())["imported_from"] == "ckpt.pt"
    run(checkpoint, "--workdir", tmp_path / "run", "--image_size=8")
    said = capsys.readouterr().out
    assert "FiLMUNet for pictures of 8x8x1" in said
    assert "no averaged weights: theirs stand in for them" in said
    assert f"python sample.py --workdir {tmp_path / 'run'}" in said


def stopped(*arguments) -> str:
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    line = str(stop.value.code)
    assert line.startswith("error: ")
    assert "\n" not in line
    return line


def test_bad_input_ends_with_one_line_and_nothing_written(checkpoint, workdir, tmp_path):
    new = ["--workdir", tmp_path / "run"]
    for arguments, said in [
        ([tmp_path / "nowhere.pt", *new], "nowhere.pt"),
        ([checkpoint], "give one checkpoint and a folder"),
        ([*new], "give one checkpoint and a folder"),
        ([checkpoint, checkpoint, *new], "give one checkpoint and a folder"),
        ([checkpoint, *new, "--heads=5"], "heads = 5: must divide the 4 channels"),
        ([checkpoint, *new, "--image_size=big"], "image_size"),
        ([checkpoint, *new, "--image-size=8"], "Unknown command line flag"),
        ([checkpoint, "--workdir", workdir], "holds files already; name a new folder"),
        ([checkpoint, "--workdir", checkpoint], "cannot be written"),
        ([checkpoint, "--workdir", checkpoint / "run"], "cannot be written"),
    ]:
        assert said in stopped(*arguments)
    assert list(tmp_path.iterdir()) == []


def test_help_is_given(capsys):
    run("--help")
    said = capsys.readouterr().out
    assert "python -m diffusion_jax.interop ckpt.pt --workdir" in said
    assert "--image_size" in said


def test_a_config_that_does_not_build_writes_nothing(tmp_path):
    config = tiny.config(tiny.UNET) | {"schedule": {"name": "Cosin"}}
    with pytest.raises(ConfigError, match="schedule"):
        write_run(tmp_path / "run", config, {}, (8, 8, 1), "x.pt")
    assert not (tmp_path / "run").exists()
