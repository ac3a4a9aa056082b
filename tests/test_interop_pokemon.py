from pathlib import Path

import jax
import numpy as np
import pytest
import torch_files

import diffusion_jax as dj
from diffusion_jax.interop import pokemon

THEIRS = Path(__file__).parents[2] / "shared" / "reference" / "two_reference_state_dicts.txt"


def network(tensors, image_size=None, steps=None, heads=None, groups=None):
    config, shape = pokemon.config_of(tensors, image_size, steps, heads, groups)
    settings = {key: value for key, value in config["model"].items() if key != "name"}
    return dj.models.FiLMUNet(**settings), shape


@pytest.mark.skipif(not THEIRS.exists(), reason="../shared/reference is not here")
def test_the_names_by_rule_are_theirs():
    section = THEIRS.read_text().split("# network M")[0].split("# network P")[1]
    listed = [line.split(" ", 1) for line in section.splitlines()[1:] if line]
    made = torch_files.film_shapes(64, (1, 2, 4, 8), (False, False, True, True), 3, 128)
    assert [(name, str(shape)) for name, shape in made.items()] == [tuple(line) for line in listed]


@pytest.mark.parametrize(
    ("settings", "parameters"),
    [
        ((64, (1, 2, 4, 8), (False, False, True, True), 3, 128), 22_171_779),
        ((16, (1, 2, 4, 8), (False, False, True, True), 3, 128), 1_550_883),
        ((64, (1, 2, 4), (False, True, True), 1, 128), 6_265_025),
    ],
)
def test_settings_are_read_off_the_shapes(settings, parameters):
    """And every tensor finds its place: the counts are those of the published networks."""
    width, multipliers, attends, channels, inner = settings
    shapes = torch_files.film_shapes(*settings)
    tensors = {name: np.broadcast_to(np.float32(1), shape) for name, shape in shapes.items()}
    model, shape = network(tensors)
    assert shape == (64, 64, channels)
    assert (model.width, model.multipliers) == (width, multipliers)
    assert model.attention == tuple(64 // 2**i for i, attend in enumerate(attends) if attend)
    assert (model.heads, model.head_channels, model.groups) == (4, inner // 4, 4)
    params = pokemon.params_of(tensors, model, shape)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters


def test_the_schedule_is_theirs():
    tensors = torch_files.float32(torch_files.filled(torch_files.film_shapes()))
    config, _ = pokemon.config_of(tensors, None, None, None, None)
    arguments = {key: value for key, value in config["schedule"].items() if key != "name"}
    schedule = dj.schedules.Cosine(**arguments)
    found = schedule.abar()[[1, 26, 51, 76, 99, 100]]
    wanted = [9.99368727e-1, 8.35620701e-1, 4.78264600e-1, 1.33494779e-1, 2.42855196e-4, 2.42895499e-8]
    np.testing.assert_allclose(found, wanted, rtol=2e-4)


def test_settings_that_no_shape_tells_are_taken_as_given():
    tensors = torch_files.float32(torch_files.filled(torch_files.film_shapes()))
    model, shape = network(tensors, image_size=16, steps=50, heads=2, groups=2)
    assert shape == (16, 16, 3)
    assert (model.heads, model.head_channels, model.groups) == (2, 4, 2)
    assert (model.time_scale, model.time_offset, model.attention) == (50.0, -1.0, (8,))


def test_the_dtype_of_the_tensors_is_kept():
    tensors = torch_files.filled(torch_files.film_shapes())
    model, shape = network(tensors)
    params = pokemon.params_of(tensors, model, shape)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float64)}
