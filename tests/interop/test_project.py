import re

import jax
import numpy as np
import pytest
import torch_files

from diffusion_jax import models
from diffusion_jax.interop import project
from diffusion_jax.interop.error import InteropError
from diffusion_jax.interop.mnist import MNIST
from diffusion_jax.interop.pokemon import Pokemon
from diffusion_jax.interop.project import Settings

FILM = torch_files.float32(torch_files.filled(torch_files.film_shapes()))
CONVNEXT = torch_files.float32(torch_files.filled(torch_files.convnext_shapes()))
PROJECTS = [(Pokemon(), FILM), (MNIST(), CONVNEXT)]
IDS = ["pokemon", "mnist"]


def build(theirs, tensors):
    """The model and image shape that the tensors imply."""
    config, shape = theirs.read_config(tensors, Settings())
    arguments = {key: value for key, value in config["model"].items() if key != "name"}
    return getattr(models, config["model"]["name"])(**arguments), shape


def read_and_convert(theirs, tensors, model, shape):
    theirs.read_config(tensors, Settings())
    theirs.convert(tensors, model, shape)


@pytest.mark.parametrize(("theirs", "tensors"), PROJECTS, ids=IDS)
def test_every_number_of_the_file_arrives_once(theirs, tensors):
    """Each tensor holds a value of its own; every parameter is found to consist of one of them."""
    tensors = {name: np.full(x.shape, i, np.float32) for i, (name, x) in enumerate(tensors.items())} | {
        name: x for name, x in tensors.items() if name == "t_emb"
    }
    params = theirs.convert(tensors, *build(theirs, tensors))
    found = {}
    for leaf in jax.tree.leaves(params):
        (value,) = set(leaf.ravel().tolist())
        found[value] = found.get(value, 0) + leaf.size
    names = [name for name in tensors if name != "t_emb"]
    assert found == {float(list(tensors).index(name)): tensors[name].size for name in names}


@pytest.mark.parametrize("odd", [(), (7,), (1, 1, 1, 1, 1), (0,), (3, 0, 1, 1), (13, 11), (13, 11, 3, 3)], ids=str)
@pytest.mark.parametrize(("theirs", "tensors"), PROJECTS, ids=IDS)
def test_any_tensor_of_another_shape_is_named(theirs, tensors, odd, monkeypatch):
    model, shape = build(theirs, tensors)
    abstract = project._abstract_params(model, shape)
    monkeypatch.setattr(project, "_abstract_params", lambda *args: abstract)
    for name in tensors:
        changed = tensors | {name: np.ones(odd, np.float32)}
        # The first convolution defines the width: another tensor may then seem wrong.
        named = r"\S+" if name == "init_conv.weight" else re.escape(name)
        with pytest.raises(InteropError, match=rf"tensor {named} "):
            read_and_convert(theirs, changed, model, shape)


@pytest.mark.parametrize(("theirs", "tensors"), PROJECTS, ids=IDS)
def test_any_missing_tensor_is_named(theirs, tensors, monkeypatch):
    model, shape = build(theirs, tensors)
    abstract = project._abstract_params(model, shape)
    monkeypatch.setattr(project, "_abstract_params", lambda *args: abstract)
    for name in tensors.keys() - {"t_emb"}:
        rest = {other: tensor for other, tensor in tensors.items() if other != name}
        with pytest.raises(InteropError, match=f"tensor {re.escape(name)} is missing"):
            theirs.convert(rest, model, shape)


@pytest.mark.parametrize("name", ["image_size", "steps", "heads", "groups"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True, "8"])
def test_settings_are_integers(name, value):
    with pytest.raises(ValueError, match=f"{name} = {value!r}: must be an integer >= 1"):
        Settings(**{name: value})
