"""Descriptions of fields, read from the docstrings."""

import dataclasses

import ml_collections
import optax
import pytest

import diffusion_jax as dj
from diffusion_jax.config.fields import (
    REQUIRED,
    config_fields,
    describe_config,
    describe_fields,
    docstring_lines,
)
from diffusion_jax.config.files import config_names, load_config
from diffusion_jax.config.sections import COMPONENTS, SETTINGS


@dataclasses.dataclass(frozen=True)
class Base:
    """A base.

    Attributes:
      a: the first: of all
        on two lines.
      b, c (optional): share a line.

    More text: not a field.
    """

    a: int
    b: float = 1.0
    c: str = "x"


@dataclasses.dataclass(frozen=True)
class Derived(Base):
    """Derived.

    Attributes:
      a, b: as in `Base`.
      c: another line.
    """

    d: tuple[int, ...] = ()


def test_a_docstring_is_read_to_the_end_of_its_section():
    shared = "share a line."
    assert docstring_lines(Base.__doc__) == {"a": "the first: of all on two lines.", "b": shared, "c": shared}


@pytest.mark.parametrize("text", [None, "", "Only a summary.", "Attributes are fields.\n\n  a: b"])
def test_a_docstring_without_fields_has_none(text):
    assert docstring_lines(text) == {}


def test_fields_have_name_type_default_and_line_also_those_of_the_base():
    assert describe_fields(Derived) == [
        ("a", "int", REQUIRED, "the first: of all on two lines."),
        ("b", "float", 1.0, "share a line."),
        ("c", "str", "x", "another line."),
        ("d", "tuple[int, ...]", (), ""),
    ]


def test_modules_and_functions_are_described_too():
    unet = {field.name: field for field in describe_fields(dj.models.UNet)}
    assert unet["groups"].default == 32
    assert unet["groups"].line
    assert not {"parent", "name"} & set(unet)
    b1 = next(field for field in describe_fields(optax.adamw) if field.name == "b1")
    assert b1.line == "Exponential decay rate to track the first moment of past gradients."


def test_a_config_is_listed_with_its_values_and_the_defaults_of_its_components():
    config = load_config("digits")
    values = {field.path: field.value for field in config_fields(config)}
    flat = ml_collections.FrozenConfigDict(config).to_dict()
    assert values["model.channels"] == flat["model"]["channels"]
    assert values["model.head_channels"] == 0
    assert values["optimizer.lr_schedule.peak_value"] == 2e-3
    assert values["loss.weighting.name"] == "Uniform"
    assert values["sampler.guidance_rescale"] == 0.0
    assert values["train.accumulate"] == 1
    assert values["mesh.fsdp"] == 1
    assert not {"loss.schedule", "loss.prediction", "optimizer.learning_rate"} & set(values)


def components():
    """Every dataclass that a config can name."""
    for module in (*(namespace.module for namespace in COMPONENTS.values() if namespace.module is not optax), dj.grids):
        for name in module.__all__:
            value = getattr(module, name)
            if isinstance(value, type) and dataclasses.is_dataclass(value):
                yield pytest.param(value, id=f"{module.__name__.split('.')[-1]}.{name}")


@pytest.mark.parametrize("component", [*components(), *SETTINGS.values()])
def test_every_field_of_a_component_has_a_line(component):
    assert [field.name for field in describe_fields(component) if not field.line] == []


@pytest.mark.parametrize("name", config_names())
def test_every_field_of_a_shipped_config_is_listed(name):
    def leaves(tree, path=""):
        for key, value in tree.items():
            yield from leaves(value, f"{path}{key}.") if isinstance(value, dict) else [f"{path}{key}"]

    config = load_config(name)
    assert set(leaves(config.to_dict())) <= {field.path for field in config_fields(config)}
    assert len(describe_config(config)) > len(config_fields(config))
