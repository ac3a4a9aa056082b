"""Configs that mean the same compare equal, whichever defaults they state."""

import json

import pytest
import tiny

from diffusion_jax.config.defaults import with_defaults
from diffusion_jax.workdir.resume import compare_experiments, flatten


def test_filling_twice_changes_nothing_and_the_result_is_json():
    filled = with_defaults(tiny.config())
    assert with_defaults(filled) == filled
    assert json.loads(json.dumps(filled)) == filled


def test_what_is_stated_stays():
    stated = tiny.config()
    filled = flatten(with_defaults(stated))
    assert flatten(stated).items() <= filled.items()


@pytest.mark.parametrize(
    ("section", "field", "default"),
    [
        ("train", "skip_spikes", 0.0),
        ("train", "ema_decay", 0.999),
        ("model", "time_scale", 1000.0),
        ("schedule", "offset", 0.008),
        ("loss", "times", {"name": "StratifiedTimes"}),
        ("loss", "weighting", {"name": "Uniform"}),
        ("optimizer", "b1", 0.9),
        ("data", "flip", False),
    ],
)
def test_a_stated_default_is_no_other_experiment_and_another_value_is(tmp_path, section, field, default):
    stated = tiny.config()
    stated[section][field] = default
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"config": stated, "data": "x"}))
    compare_experiments(path, {"config": tiny.config(), "data": "x"})
    stated[section][field] = "another"
    path.write_text(json.dumps({"config": stated, "data": "x"}))
    with pytest.raises(ValueError, match=f"^config.{section}.{field}"):
        compare_experiments(path, {"config": tiny.config(), "data": "x"})


def test_a_users_own_component_is_not_imported(tmp_path):
    config = tiny.config() | {"model": {"name": "no_such_module:Network", "width": 3}}
    assert with_defaults(config)["model"] == config["model"]
