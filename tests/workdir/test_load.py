"""Loading a run: from the checkpoint alone, onto the devices that are here."""

import shutil

import jax
import numpy as np
import pytest
import tiny

import diffusion_jax as dj
from diffusion_jax.config.components import ConfigError
from diffusion_jax.runtime.checkpoint import Checkpoints
from diffusion_jax.runtime.errors import CheckpointError


def test_a_loaded_run_is_the_one_that_was_trained(straight):
    run = dj.load(straight, allow_code=True)
    assert run.step == 60
    assert run.schedule == dj.schedules.Cosine(steps=100)
    assert run.prediction == dj.predictions.V()
    assert run.sampling == dj.Sampling(dj.samplers.DDIM(), steps=4, guidance=1.5)
    assert run.network == dj.Network(tiny.Affine(), run.schedule, run.prediction, (8, 8, 1), 10, unlabelled=True)
    assert run.config == tiny.config(tiny.AFFINE)
    assert run.class_names == ()


def test_its_parameters_are_the_average_of_the_newest_checkpoint(straight):
    run = dj.load(straight, allow_code=True)
    with Checkpoints(straight / "checkpoints", read_only=True) as checkpoints:
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), run.params)
        step, items, _ = checkpoints.restore({"ema_params": target})
    assert step == 60
    jax.tree.map(np.testing.assert_array_equal, run.params, items["ema_params"])


def test_the_mesh_of_the_training_does_not_matter(straight, tmp_path, devices):
    """A run that was trained on 16 devices, which are not here."""
    run = dj.load(straight, allow_code=True)
    config = run.config | {"mesh": {"data": 4, "fsdp": 4}}
    description = {"config": config, "image_shape": [8, 8, 1], "num_classes": 10, "class_names": []}
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(7, {"ema_params": run.params}, description)
    other = dj.load(tmp_path, allow_code=True)
    assert dict(other.mesh.shape) == {"data": len(devices), "fsdp": 1}
    assert (other.step, other.config) == (7, config)
    jax.tree.map(np.testing.assert_array_equal, run.params, other.params)


def test_a_run_with_code_of_its_own_is_loaded_only_when_allowed(straight):
    with pytest.raises(ConfigError, match="may not import code"):
        dj.load(straight)


def test_a_damaged_newest_checkpoint_is_passed_over(straight, tmp_path, caplog):
    shutil.copytree(straight, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints" / "60" / "ema_params").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert dj.load(tmp_path / "run", allow_code=True).step == 50
    assert "checkpoint 60 is damaged" in caplog.text
    assert (tmp_path / "run" / "checkpoints" / "60").exists()  # loading changes nothing


def test_a_directory_without_a_checkpoint_cannot_be_loaded(tmp_path):
    for workdir in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match="no checkpoint in .*train first"):
            dj.load(workdir)
    assert list(tmp_path.iterdir()) == []
