import re
from typing import NamedTuple

import jax
import numpy as np
import pytest
import torch_files
from slow import slow

from diffusion_jax import models
from diffusion_jax.interop import project
from diffusion_jax.interop.error import InteropError
from diffusion_jax.interop.mnist import MNIST
from diffusion_jax.interop.pokemon import Pokemon
from diffusion_jax.interop.project import Project, Settings


class Case(NamedTuple):
    """A project with the tensors of a narrow network, and the model that they imply."""

    project: Project
    tensors: dict[str, np.ndarray]
    model: object
    image_shape: tuple[int, int, int]
    params: object  # shapes only

    def read_and_convert(self, tensors):
        self.project.read_config(tensors, Settings())
        return self.project.convert(tensors, self.model, self.image_shape)


@pytest.fixture(
    scope="module",
    params=[(Pokemon(), torch_files.film_shapes()), (MNIST(), torch_files.convnext_shapes())],
    ids=["pokemon", "mnist"],
)
def traced(request):
    theirs, shapes = request.param
    tensors = torch_files.float32(torch_files.filled(shapes))
    config, image_shape = theirs.read_config(tensors, Settings())
    arguments = {key: value for key, value in config["model"].items() if key != "name"}
    model = getattr(models, config["model"]["name"])(**arguments)
    return Case(theirs, tensors, model, image_shape, project._abstract_params(model, image_shape))


@pytest.fixture
def case(traced, monkeypatch):
    """The model is traced only once."""
    monkeypatch.setattr(project, "_abstract_params", lambda *args: traced.params)
    return traced


def test_every_number_of_the_file_arrives_once(case):
    """Each tensor holds a value of its own; every parameter is found to consist of one of them."""
    names = [name for name in case.tensors if name != "t_emb"]
    numbered = {name: np.full(case.tensors[name].shape, i, np.float32) for i, name in enumerate(names)}
    found = {}
    for leaf in jax.tree.leaves(case.read_and_convert(case.tensors | numbered)):
        (value,) = set(leaf.ravel().tolist())
        found[value] = found.get(value, 0) + leaf.size
    assert found == {i: case.tensors[name].size for i, name in enumerate(names)}


ODD = [(), (3, 0, 1, 1), (13, 11, 3, 3), *slow(((7,),), ((1, 1, 1, 1, 1),), ((0,),), ((13, 11),))]


@pytest.mark.parametrize("odd", ODD, ids=str)
def test_any_tensor_of_another_shape_is_named(case, odd):
    for name in case.tensors:
        # The first convolution defines the width: another tensor may then seem wrong.
        named = r"\S+" if name == "init_conv.weight" else re.escape(name)
        with pytest.raises(InteropError, match=rf"tensor {named} "):
            case.read_and_convert(case.tensors | {name: np.ones(odd, np.float32)})


def test_any_missing_tensor_is_named(case):
    for name in case.tensors.keys() - {"t_emb"}:
        rest = {other: tensor for other, tensor in case.tensors.items() if other != name}
        with pytest.raises(InteropError, match=f"tensor {re.escape(name)} is missing"):
            case.project.convert(rest, case.model, case.image_shape)


@pytest.mark.parametrize("name", ["image_size", "steps", "heads", "groups"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True, "8"])
def test_settings_are_integers(name, value):
    with pytest.raises(ValueError, match=f"{name} = {value!r}: must be an integer >= 1"):
        Settings(**{name: value})
