"""diffusion-jax import, called in this process, and diffusion-jax sample on its run."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
import torch_files

import diffusion_jax as dj
from diffusion_jax.cli.main import main
from diffusion_jax.config.components import ConfigError
from diffusion_jax.interop.run_directory import write_run


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    shapes = torch_files.film_shapes(4, (1,), (False,), 1, 4)
    tensors = torch_files.float32(torch_files.filled(shapes))
    folder = tmp_path_factory.mktemp("theirs")
    return torch_files.save(folder / "ckpt.pt", {"net": {"state_dict": torch_files.state_dict(tensors)}})


@pytest.fixture(scope="module")
def workdir(checkpoint, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "theirs"
    assert import_weights(checkpoint, "--workdir", folder, "--image_size", 8, "--steps=20") == 0
    return folder


def import_weights(*arguments) -> int:
    return main(["import", *map(str, arguments)])


def test_the_directory_is_loaded_as_a_run(checkpoint, workdir):
    loaded = dj.load(workdir)
    imported = dj.interop.load(checkpoint, image_size=8, steps=20)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, imported.params)
    assert loaded.network.image_shape == (8, 8, 1)
    assert loaded.network.model == imported.model
    assert loaded.schedule == imported.schedule == dj.schedules.Cosine(20, min_beta=1e-4, max_beta=0.9999)
    assert loaded.config["optimizer"]["b2"] == 0.95


@pytest.mark.slow
def test_sampling_from_it_is_sampling_with_the_imported_network(workdir, checkpoint, tmp_path):
    out = tmp_path / "x.npz"
    assert main(["sample", "--workdir", str(workdir), "--out", str(out), "--num_samples=3", "--steps=2"]) == 0
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


def test_the_origin_is_recorded_and_printed(workdir, checkpoint, tmp_path, capsys):
    assert json.loads((workdir / "config.json").read_text())["imported_from"] == "ckpt.pt"
    assert import_weights(checkpoint, "--workdir", tmp_path / "run", "--image_size=8") == 0
    out = capsys.readouterr().out
    assert "FiLMUNet for images of 8x8x1. The file has no averaged weights; its weights are used." in out
    assert f"diffusion-jax sample --workdir {tmp_path / 'run'}" in out


def test_bad_input_ends_with_one_line_and_nothing_written(checkpoint, workdir, tmp_path, capsys):
    new = ["--workdir", tmp_path / "run"]
    for arguments, message in [
        ([tmp_path / "nowhere.pt", *new], "nowhere.pt"),
        ([checkpoint], "--workdir: required"),
        ([*new], "CHECKPOINT: required"),
        ([checkpoint, checkpoint, *new], "unexpected argument"),
        ([checkpoint, *new, "--heads=5"], "heads = 5: must divide the 4 channels"),
        ([checkpoint, *new, "--image_size=big"], "image_size"),
        ([checkpoint, *new, "--image-size=8"], "Unknown command line flag"),
        ([checkpoint, "--workdir", workdir], "holds files already"),
        ([checkpoint, "--workdir", checkpoint], "cannot be written"),
        ([checkpoint, "--workdir", checkpoint / "run"], "cannot be written"),
    ]:
        assert import_weights(*arguments) == 1
        err = capsys.readouterr().err
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert message in err
    assert list(tmp_path.iterdir()) == []


def test_a_config_that_does_not_build_writes_nothing(tmp_path):
    config = tiny.config(tiny.UNET) | {"schedule": {"name": "Cosin"}}
    with pytest.raises(ConfigError, match="schedule"):
        write_run(tmp_path / "run", config, {}, (8, 8, 1), "x.pt")
    assert not (tmp_path / "run").exists()
