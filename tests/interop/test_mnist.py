import hashlib

import jax
import numpy as np
import pytest
import torch_files

import diffusion_jax as dj
from diffusion_jax.config.experiment import Experiment
from diffusion_jax.interop.error import InteropError
from diffusion_jax.interop.mnist import MNIST
from diffusion_jax.interop.project import Settings

PUBLISHED = ((16, 32, 64, 128), 8, 3, 10, 112, 500)


def network(tensors, **settings):
    config, shape = MNIST().read_config(tensors, Settings(**settings))
    arguments = {key: value for key, value in config["model"].items() if key != "name"}
    return dj.models.ConvNeXtUNet(**arguments), shape


def tiny():
    return torch_files.float32(torch_files.filled(torch_files.convnext_shapes()))


def test_the_names_by_rule_are_those_of_the_project():
    """The hash is of the names and shapes of the published network, in the order of its named_parameters()."""
    made = torch_files.convnext_shapes(*PUBLISHED)
    text = "\n".join(f"{name} {shape}" for name, shape in made.items())
    assert len(made) == 178
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "82ec9f89a7b073a82881bd5ccd37f4a2557cd2be5b21a64b4d032fa34cc5acd9"
    )


def test_settings_are_read_off_the_shapes():
    model, shape = network(tiny())
    assert shape == (28, 28, 1)
    assert (model.channels, model.strides, model.last_width) == ((4, 6, 8, 10), (2, 2, 3), 2)
    assert (model.expansion, model.embedding_width, model.num_classes) == (2, 6, 3)
    assert model.attention == (28, 14, 7, 3)
    assert not model.stem


def test_every_tensor_of_the_published_network_has_its_place():
    shapes = torch_files.convnext_shapes(*PUBLISHED)
    tensors = {name: np.broadcast_to(np.float32(1), shape) for name, shape in shapes.items()}
    tensors["t_emb"] = torch_files.sines(*shapes["t_emb"])
    model, shape = network(tensors)
    params = MNIST().convert(tensors, model, shape)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 2_038_132


def test_the_length_of_the_table_is_the_number_of_steps():
    config, _ = MNIST().read_config(tiny(), Settings())
    assert config["schedule"]["steps"] == 20
    assert config["model"]["time_scale"] == 20.0
    assert network(tiny(), steps=20)[0].time_scale == 20.0


def test_without_the_table_the_steps_are_the_default_or_the_setting():
    tensors = tiny()
    tensors.pop("t_emb")
    assert network(tensors)[0].time_scale == 500.0
    assert network(tensors, steps=30)[0].time_scale == 30.0


def test_the_schedule_is_the_projects_except_for_its_end():
    tensors = tiny()
    tensors.pop("t_emb")
    config, _ = MNIST().read_config(tensors, Settings())
    arguments = {key: value for key, value in config["schedule"].items() if key != "name"}
    abar = dj.schedules.Cosine(**arguments).abar()
    expected = {1: 0.99991262, 29: 0.98961300, 250: 0.49384356, 477: 0.00513047, 499: 9.714e-6}
    np.testing.assert_allclose(abar[list(expected)], list(expected.values()), rtol=2e-4)
    assert 1e-9 < abar[500] < 1e-8


def test_another_table_is_refused():
    for table in (tiny()["t_emb"][::-1], tiny()["t_emb"] + 0.05):
        with pytest.raises(InteropError, match="t_emb is not the table of sines of this network"):
            network(tiny() | {"t_emb": table})


@pytest.mark.parametrize(("columns", "width"), [(4, 6), (6, 4), (5, 5)])
def test_a_table_of_another_width_is_refused(columns, width):
    tensors = {"t_emb": np.ones((21, columns), np.float32), "class_emb.weight": np.ones((3, width), np.float32)}
    message = f"t_emb is {columns} wide, tensor class_emb.weight {width}: must be equal and even"
    with pytest.raises(InteropError, match=message):
        network(tiny() | tensors)


def test_steps_that_differ_from_the_table_are_refused():
    with pytest.raises(InteropError, match="steps = 30: must be 20, from the length of tensor t_emb; leave it out"):
        network(tiny(), steps=30)


def test_a_run_of_it_knows_that_it_never_trained_without_labels():
    config, shape = MNIST().read_config(tiny(), Settings())
    network = Experiment.from_config(config, shape, config["model"]["num_classes"]).network
    assert not network.unlabelled


def test_the_training_sections_are_those_of_the_project():
    config, _ = MNIST().read_config(tiny(), Settings())
    assert config["data"] == {"name": "TFDS", "dataset": "mnist"}
    assert config["optimizer"] == {"name": "adam", "lr_schedule": 1e-3}
    assert config["train"] == {"steps": 9360, "batch_size": 128}
    assert config["loss"] == {"name": "DiffusionLoss", "label_drop": 0.0}
    assert config["sampler"] == {"name": "DDIM", "eta": 0.0, "steps": 20, "clip": True}


def test_transposed_convolutions_are_turned():
    """convert_kernel of a transposed convolution: (in, out, h, w) -> (h, w, in, out), turned by 180 degrees."""
    weight = np.arange(2 * 3 * 3 * 3.0).reshape(2, 3, 3, 3)
    kernel = MNIST().convert_kernel(["up1_sample"], weight, 4)
    assert kernel.shape == (3, 3, 2, 3)
    for i, j in np.ndindex(3, 3):
        np.testing.assert_array_equal(kernel[i, j], weight[:, :, 2 - i, 2 - j])
    np.testing.assert_array_equal(MNIST().convert_kernel(["down1_sample"], weight, 4), weight.transpose(2, 3, 1, 0))
