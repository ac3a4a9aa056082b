import hashlib

import jax
import numpy as np
import pytest
import torch_files

import diffusion_jax as dj
from diffusion_jax.interop.pokemon import Pokemon
from diffusion_jax.interop.project import Settings

PUBLISHED = (64, (1, 2, 4, 8), (False, False, True, True), 3, 128)


def network(tensors, **settings):
    config, shape = Pokemon().read_config(tensors, Settings(**settings))
    arguments = {key: value for key, value in config["model"].items() if key != "name"}
    return dj.models.FiLMUNet(**arguments), shape


def tiny():
    return torch_files.float32(torch_files.filled(torch_files.film_shapes()))


def test_the_names_by_rule_are_those_of_the_project():
    """The hash is of the names and shapes of the published network, in the order of its named_parameters()."""
    made = torch_files.film_shapes(*PUBLISHED)
    text = "\n".join(f"{name} {shape}" for name, shape in made.items())
    assert len(made) == 171
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "182bc7313e96e59216c07dec2183c7db2b5cc650d58d737c93a4a3f9d586fd25"
    )


@pytest.mark.parametrize(
    ("shapes", "parameters"),
    [
        (PUBLISHED, 22_171_779),
        ((16, (1, 2, 4, 8), (False, False, True, True), 3, 128), 1_550_883),
        ((64, (1, 2, 4), (False, True, True), 1, 128), 6_265_025),
    ],
)
def test_settings_are_read_off_the_shapes(shapes, parameters):
    """And every tensor has its place: the numbers of parameters are those of the published networks."""
    width, multipliers, attends, channels, inner = shapes
    made = torch_files.film_shapes(*shapes)
    tensors = {name: np.broadcast_to(np.float32(1), shape) for name, shape in made.items()}
    model, shape = network(tensors)
    assert shape == (64, 64, channels)
    assert (model.width, model.multipliers) == (width, multipliers)
    assert model.attention == tuple(64 // 2**i for i, attend in enumerate(attends) if attend)
    assert (model.heads, model.head_channels, model.groups) == (4, inner // 4, 4)
    params = Pokemon().convert(tensors, model, shape)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters


def test_the_schedule_is_the_projects():
    config, _ = Pokemon().read_config(tiny(), Settings())
    arguments = {key: value for key, value in config["schedule"].items() if key != "name"}
    abar = dj.schedules.Cosine(**arguments).abar()[[1, 26, 51, 76, 99, 100]]
    expected = [9.99368727e-1, 8.35620701e-1, 4.78264600e-1, 1.33494779e-1, 2.42855196e-4, 2.42895499e-8]
    np.testing.assert_allclose(abar, expected, rtol=2e-4)


def test_settings_that_no_shape_determines_can_be_set():
    model, shape = network(tiny(), image_size=16, steps=50, heads=2, groups=2)
    assert shape == (16, 16, 3)
    assert (model.heads, model.head_channels, model.groups) == (2, 4, 2)
    assert (model.time_scale, model.time_offset, model.attention) == (50.0, -1.0, (8,))


def test_the_training_sections_are_those_of_the_project():
    config, _ = Pokemon().read_config(tiny(), Settings())
    assert config["data"] == dict(name="Folder", path="pokemon", size=64, channels=3, crop="squash", flip=True)
    assert config["optimizer"] == dict(name="adamw", lr_schedule=2e-4, b1=0.9, b2=0.95, weight_decay=1e-3)
    assert config["train"] == dict(steps=100_000, batch_size=16)
    assert config["loss"] == dict(name="DiffusionLoss", label_drop=0.0)
    assert config["sampler"] == dict(name="DDPM", variance="large", steps=100, clip=True)


def test_the_dtype_of_the_tensors_is_kept():
    tensors = torch_files.filled(torch_files.film_shapes())
    model, shape = network(tensors)
    params = Pokemon().convert(tensors, model, shape)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float64)}


def test_space_to_depth_has_the_channels_last():
    """Input 4 c + 2 p + q of the project's 1x1 convolution is input (2 p + q) C + c here."""
    weight = np.arange(5 * 12.0).reshape(5, 12, 1, 1)
    kernel = Pokemon().convert_kernel(["down0_sample"], weight, 2)
    assert kernel.shape == (12, 5)
    for c, p, q in np.ndindex(3, 2, 2):
        np.testing.assert_array_equal(kernel[3 * (2 * p + q) + c], weight[:, 4 * c + 2 * p + q, 0, 0])
    np.testing.assert_array_equal(Pokemon().convert_kernel(["conv_in"], weight, 2), weight[..., 0, 0].T)
