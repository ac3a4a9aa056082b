from pathlib import Path

import numpy as np
import pytest
import torch_files

import diffusion_jax as dj
from diffusion_jax.config.experiment import Experiment
from diffusion_jax.interop import mnist
from diffusion_jax.interop.torch_pickle import InteropError

THEIRS = Path(__file__).parents[2] / "shared" / "reference" / "two_reference_state_dicts.txt"
PUBLISHED = ((16, 32, 64, 128), 8, 3, 10, 112, 500)


def network(tensors, image_size=None, steps=None):
    config, shape = mnist.config_of(tensors, image_size, steps, None, None)
    settings = {key: value for key, value in config["model"].items() if key != "name"}
    return dj.models.ConvNeXtUNet(**settings), shape


def tiny():
    return torch_files.float32(torch_files.filled(torch_files.convnext_shapes()))


@pytest.mark.skipif(not THEIRS.exists(), reason="../shared/reference is not here")
def test_the_names_by_rule_are_theirs():
    section = THEIRS.read_text().split("# network M")[1]
    listed = [line.split(" ", 1) for line in section.splitlines()[1:] if line]
    made = torch_files.convnext_shapes(*PUBLISHED)
    assert [(name, str(shape)) for name, shape in made.items()] == [tuple(line) for line in listed]


def test_settings_are_read_off_the_shapes():
    model, shape = network(tiny())
    assert shape == (28, 28, 1)
    assert (model.channels, model.strides, model.last_width) == ((4, 6, 8, 10), (2, 2, 3), 2)
    assert (model.expansion, model.embedding_width, model.num_classes) == (2, 6, 3)
    assert model.attention == (28, 14, 7, 3)
    assert not model.stem


def test_the_length_of_the_table_is_the_number_of_steps():
    config, _ = mnist.config_of(tiny(), None, None, None, None)
    assert config["schedule"]["steps"] == 20
    assert config["model"]["time_scale"] == 20.0


def test_without_the_table_the_steps_are_the_projects_or_as_given():
    tensors = tiny()
    tensors.pop("t_emb")
    assert network(tensors)[0].time_scale == 500.0
    assert network(tensors, steps=30)[0].time_scale == 30.0


def test_the_schedule_is_theirs_but_for_its_end():
    tensors = tiny()
    tensors.pop("t_emb")
    config, _ = mnist.config_of(tensors, None, None, None, None)
    arguments = {key: value for key, value in config["schedule"].items() if key != "name"}
    abar = dj.schedules.Cosine(**arguments).abar()
    wanted = {1: 0.99991262, 29: 0.98961300, 250: 0.49384356, 477: 0.00513047, 499: 9.714e-6}
    np.testing.assert_allclose(abar[list(wanted)], list(wanted.values()), rtol=2e-4)
    assert 1e-9 < abar[500] < 1e-8


def test_another_table_is_refused():
    tensors = tiny()
    tensors["t_emb"] = tensors["t_emb"][::-1]
    with pytest.raises(InteropError, match="t_emb is not the table of sines"):
        network(tensors)


def test_steps_that_are_not_those_of_the_table_are_refused():
    with pytest.raises(InteropError, match="steps = 30: tensor t_emb is for 20; leave it out"):
        network(tiny(), steps=30)


def test_a_run_of_it_knows_that_it_was_never_without_labels():
    config, shape = mnist.config_of(tiny(), None, None, None, None)
    network = Experiment.from_config(config, shape, config["model"]["num_classes"]).network
    assert not network.unlabelled
