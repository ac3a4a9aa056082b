"""The number of classes comes from the data, unless the config or an earlier start of the run says otherwise."""

import copy
import dataclasses
import json
import logging

import jax
import numpy as np
import pytest
import tiny

import diffusion_jax as dj
from diffusion_jax.config.components import ConfigError
from diffusion_jax.config.from_data import with_classes, with_dataset

MODEL = {"name": "tiny:AnyClasses"}


def without_classes(**train):
    """A config of the digits that says nothing of classes, label_drop or guidance."""
    config = tiny.config(MODEL, steps=2, batch_size=8, eval_every=0, checkpoint_every=2, **train)
    del config["loss"]["label_drop"], config["sampler"]["guidance"]
    return config


def test_a_run_on_data_with_classes_has_classes_and_can_be_guided(tmp_path):
    assert dj.train(without_classes(), tmp_path)
    run = dj.load(tmp_path, allow_code=True)
    assert run.network.num_classes == 10
    assert run.network.unlabelled
    assert run.sampling.guidance.scale == 2.0
    one, guided = (run.sample(jax.random.key(0), 2, labels=[3, 4], steps=2, guidance=w) for w in (1.0, 2.0))
    assert np.isfinite(one).all()
    assert np.abs(guided - one).max() > 0  # and so finite
    assert dj.train(without_classes(), tmp_path)  # the same command again


@pytest.mark.slow
def test_a_run_that_began_without_classes_goes_on_without(tmp_path, caplog):
    config = without_classes()
    assert dj.train(config | {"model": MODEL | {"num_classes": 0}}, tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    del stored["config"]["model"]["num_classes"]  # as written before classes came from the data
    (tmp_path / "config.json").write_text(json.dumps(stored))
    longer = without_classes()
    longer["train"]["steps"] = 4
    with caplog.at_level(logging.INFO):
        assert dj.train(longer, tmp_path)
    assert dj.load(tmp_path, allow_code=True).network.num_classes == 0
    assert "the labels of the data are not used" in caplog.text


@pytest.mark.slow
def test_label_drop_0_is_told(tmp_path, caplog):
    config = without_classes()
    config["loss"]["label_drop"] = 0.0
    assert dj.train(config, tmp_path)
    assert "loss.label_drop = 0: every label is seen" in caplog.text
    assert dj.load(tmp_path, allow_code=True).sampling.guidance.scale == 1.0


def test_a_config_that_says_how_many_is_left_alone():
    config = without_classes()
    config["model"]["num_classes"] = 0
    assert with_classes(config, 10) is config
    assert with_classes(without_classes(), 0)["model"] == MODEL
    config["model"]["num_classes"] = 7
    with pytest.raises(ConfigError, match="config.model.num_classes = 7: the data have 10"):
        dj.train(config, "unused")


@pytest.mark.parametrize("section", ["model", "loss", "sampler"])
@pytest.mark.parametrize("value", ["DDIM", 3, {}, ["UNet"]])
def test_a_section_that_is_no_component_is_refused_in_one_line(section, value):
    with pytest.raises(ConfigError, match=rf"config\.{section} = .*: must be dict\(name="):
        dj.train(without_classes() | {section: value}, "unused")


def test_a_label_drop_that_is_no_number_is_refused_in_one_line():
    config = without_classes()
    config["loss"]["label_drop"] = "often"
    with pytest.raises(ConfigError, match=r"config\.loss\.label_drop = 'often': must be of type float"):
        dj.train(config, "unused")


def test_what_is_given_is_kept_and_the_config_itself_is_not_changed():
    config = without_classes()
    config["sampler"]["guidance"] = 3.0
    before = copy.deepcopy(config)
    assert with_classes(config, 10)["sampler"]["guidance"] == 3.0
    assert config == before


def test_a_network_of_one_s_own_that_takes_no_number_stays_as_it_is():
    config = tiny.config(tiny.AFFINE)
    assert with_classes(config, 10)["model"] == tiny.AFFINE


def test_the_flip_of_a_config_holds_for_arrays_and_its_other_fields_do_not():
    images = np.zeros((20, 4, 4, 1), np.uint8)
    config, dataset = with_dataset({"data": {"name": "Folder", "path": "x", "flip": True, "holdout": 5}}, images)
    assert config["data"] == {"name": "UserData", "flip": True}
    assert (dataset.flip, dataset.holdout) == (True, 10)


def test_a_data_set_of_ones_own_is_described_without_its_fields():
    @dataclasses.dataclass(frozen=True)
    class Mine(dj.sources.Digits):
        secret: int = 3

    config, dataset = with_dataset({}, Mine(flip=True))
    assert config["data"] == {"name": "UserData", "flip": True}
    assert dataset == Mine(flip=True)
    config, _ = with_dataset({}, dj.sources.UserData(np.zeros((20, 4, 4, 1)), holdout=5))
    assert "data" not in config["data"]
    assert config["data"]["holdout"] == 5
