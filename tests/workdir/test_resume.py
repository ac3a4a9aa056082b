"""What a resumed run may change: each field of a whole config, one by one."""

import json

import pytest
import tiny

from diffusion_jax.config.components import ConfigError
from diffusion_jax.config.defaults import with_defaults
from diffusion_jax.runtime.errors import CheckpointError
from diffusion_jax.workdir.resume import check_same_experiment, flatten

DATA = {
    "name": "Folder",
    "path": "images",
    "size": 8,
    "classes": "csv",
    "csv": "table.csv",
    "cache_dir": "cache",
    "data_dir": "tfds",  # of another data set, all in one here
}
CONFIG = with_defaults(tiny.config() | {"data": DATA, "mesh": {"data": 8, "fsdp": 1}})
FIELDS = sorted(flatten(CONFIG))
MAY_CHANGE = {
    "train.steps",
    "train.log_every",
    "train.eval_every",
    "train.sample_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.max_skipped",
    "train.stop_if_save_fails",
    "train.accumulate",
    "data.data_dir",
    "data.path",
    "data.csv",
    "data.cache_dir",
    *(name for name in FIELDS if name.startswith(("sampler.", "mesh."))),
}


def changed(field: str) -> dict:
    """CONFIG with another value in one field."""
    config = json.loads(json.dumps(CONFIG))
    *sections, name = field.split(".")
    inside = config
    for section in sections:
        inside = inside[section]
    inside[name] = "another"
    return config


@pytest.fixture
def check(tmp_path):
    """Compares a config, and a fingerprint of the data, with the ones in the run's config.json."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"config": CONFIG, "data": "x"}))
    return lambda config, data="x": check_same_experiment(path, {"config": config, "data": data})


def test_every_section_is_among_the_fields():
    assert {field.split(".")[0] for field in FIELDS} == set(CONFIG)
    assert set(FIELDS) > MAY_CHANGE
    assert len(MAY_CHANGE) > 17


@pytest.mark.parametrize("field", sorted(MAY_CHANGE))
def test_these_may_change(field, check):
    check(changed(field))


@pytest.mark.parametrize("field", sorted(set(FIELDS) - MAY_CHANGE))
def test_no_other_field_may_change(field, check):
    with pytest.raises(ConfigError, match=rf"^config\.{field} = 'another': .* holds a run with .*; set it back"):
        check(changed(field))


@pytest.mark.parametrize("field", ["train.step", "data.paths", "train.steps_"])
def test_a_name_that_only_begins_like_a_field_that_may_change_may_not(field, check):
    section, name = field.split(".")
    with pytest.raises(ConfigError, match=rf"^config\.{field} = 3: .* holds a run with None"):
        check(CONFIG | {section: CONFIG[section] | {name: 3}})


def test_other_data_are_refused(check):
    with pytest.raises(ConfigError, match="^data fingerprint = 'y': .* holds a run with 'x'"):
        check(CONFIG, data="y")


def test_the_fingerprint_of_an_earlier_version_is_that_of_the_same_data(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"config": CONFIG, "data": "as it was computed before"}))
    current = {"config": CONFIG, "data": "x"}
    check_same_experiment(path, current, lambda fingerprint: fingerprint == "as it was computed before")
    with pytest.raises(ConfigError, match="^data fingerprint = 'x'"):
        check_same_experiment(path, current, lambda fingerprint: False)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"config": {}}', '{"data": "x"}', '{"config": 3, "data": "x"}'])
def test_without_a_checkpoint_a_config_that_cannot_be_read_is_refused_in_one_line(text, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(text)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="no checkpoint in") as error:
        check_same_experiment(path, {"config": CONFIG, "data": "x"})
    assert "\n" not in str(error.value)
