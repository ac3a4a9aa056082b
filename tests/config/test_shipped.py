"""The shipped experiments as functions."""

import re
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

import diffusion_jax as dj
from diffusion_jax.config.components import ConfigError
from diffusion_jax.config.files import config_names, load_config


@pytest.mark.parametrize("name", config_names())
def test_a_function_is_its_file(name):
    assert getattr(dj.configs, name)().to_dict() == load_config(name).to_dict()
    assert getattr(dj.configs, name)("smoke").to_dict() == load_config(f"{name}:smoke").to_dict()
    assert getattr(dj.configs, name).__name__ == name


def test_the_module_lists_them():
    assert dir(dj.configs) == dj.configs.__all__ == config_names()


def test_keywords_reach_the_data_and_the_training():
    config = dj.configs.folder("cpu", path=Path("images"), size=(48, 64), steps=20, seed=3)
    expected = load_config("folder:cpu").to_dict()
    expected["data"] |= {"path": "images", "size": (48, 64)}
    expected["train"] |= {"steps": 20, "seed": 3}
    assert config.to_dict() == expected


@pytest.mark.parametrize(
    ("fields", "section", "expected"),
    [
        ({"model": {"channels": (8, 16)}}, "model", {"channels": (8, 16), "num_classes": 10}),
        ({"sampler": "DDIM(eta=0.5)"}, "sampler", {"name": "DDIM", "eta": 0.5, "guidance": 1.3}),
        ({"sampler": {"name": "DDIM", "eta": 0.5}}, "sampler", {"name": "DDIM", "eta": 0.5, "guidance": 1.3}),
        ({"loss": {"weighting": {"name": "MinSNR"}}}, "loss", {"weighting": {"name": "MinSNR"}}),
        ({"optimizer": {"lr_schedule": 1e-3}}, "optimizer", {"lr_schedule": 1e-3, "name": "adamw"}),
        ({"train": {"steps": 3}, "seed": 1}, "train", {"steps": 3, "seed": 1}),
        ({"mesh": {"fsdp": 2}}, "mesh", {"fsdp": 2}),
        ({"steps": np.int64(5), "train": {"init_from": Path("runs/x")}}, "train", {"steps": 5, "init_from": "runs/x"}),
        ({"model": ConfigDict({"channels": (8, 16)})}, "model", {"channels": (8, 16), "blocks": 1}),
    ],
)
def test_sections_are_set_by_fields_by_name_or_by_text(fields, section, expected):
    found = dj.configs.digits(**fields).to_dict()[section]
    assert {key: found[key] for key in expected} == expected


def test_a_config_is_not_shared_between_calls():
    dj.configs.digits(steps=3)
    assert dj.configs.digits().train.steps == 600


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("digits", {"stpes": 3}, "config.stpes: there is no such field; did you mean steps"),
        ("digits", {"steps": 2.5}, "config.train.steps=2.5: must be an integer"),
        ("digits", {"steps": "many"}, "config.train.steps=many: must be an integer"),
        ("digits", {"model": 3}, "config.model=3: must be a component"),
        ("digits", {"model": {"chanels": (8,)}}, "config.model.chanels: there is no such field; did you mean channels"),
        ("digits", {"train": 3}, "config.train: is a section"),
        ("digits", {"train": {"steps": 3}, "steps": 4}, "config.train.steps: is set twice; set it once"),
        ("folder", {"path": 3}, "config.data.path=3: must be text"),
        ("folder", {"max_skipped": 3}, "max_skipped: is a field of data and of train; use data=dict(max_skipped=...)"),
        ("digits", {"variant": "huge"}, 'configs.digits: variant "huge": must be "smoke"'),
    ],
)
def test_a_wrong_keyword_is_refused_in_one_line(name, arguments, message):
    with pytest.raises(ConfigError, match="^" + re.escape(message)) as error:
        getattr(dj.configs, name)(**arguments)
    assert "\n" not in str(error.value)
