"""The examples in docstrings run, and everything public has one."""

import dataclasses
import doctest
import importlib
import inspect
import pkgutil
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_files

import diffusion_jax as dj

MODULES = sorted(m.name for m in pkgutil.walk_packages(dj.__path__, "diffusion_jax.") if "__main__" not in m.name)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def public_objects(module: types.ModuleType = dj) -> dict[str, object]:
    """Name -> object, of everything that `__all__` reaches from `dj` on, submodules included."""
    found = {}
    for name in module.__all__:
        value = getattr(module, name)
        if isinstance(value, types.ModuleType):
            found |= {f"{name}.{inner}": it for inner, it in public_objects(value).items()}
        elif callable(value):
            found[name] = value
    return found


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """The current directory of the examples. It holds `ckpt.pt`, a narrow Pokemon network as torch.save writes it."""
    tensors = torch_files.float32(torch_files.filled(torch_files.film_shapes()))
    torch_files.save(tmp_path / "ckpt.pt", torch_files.state_dict(tensors))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name, directory):
    module = importlib.import_module(name)
    names = {"jax": jax, "jnp": jnp, "np": np, "dj": dj, **vars(module)}
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    for case in doctest.DocTestFinder(exclude_empty=True).find(module, globs=names):
        runner.run(case)
    assert runner.summarize().failed == 0


@pytest.mark.parametrize("name", sorted(public_objects()))
def test_everything_public_has_an_example(name):
    assert ">>>" in (inspect.getdoc(public_objects()[name]) or "")


@pytest.mark.parametrize("module", [dj, dj.samplers, dj.schedules, dj.losses, dj.models, dj.sources, dj.editing])
def test_completion_shows_what_is_public_and_nothing_else(module):
    assert dir(module) == sorted(module.__all__)


def test_public_dataclasses_are_frozen():
    found = {name: it for name, it in public_objects().items() if dataclasses.is_dataclass(it)}
    assert len(found) > 50
    thawed = [
        name for name, it in found.items() if not it.__dataclass_params__.frozen and not issubclass(it, nn.Module)
    ]
    assert thawed == []
