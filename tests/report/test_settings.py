import json
import shutil
import tarfile
from pathlib import Path

import pytest
from run_files import CONFIG, config_with

from diffusion_jax.report.settings import read_settings

ROOT = Path(__file__).resolve().parents[2]


def read(directory):
    notes = []
    return read_settings(directory, notes.append), notes


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    parent = tmp_path_factory.mktemp("settings")
    with tarfile.open(ROOT / "tests" / "data" / "run_0_1_0.tar.xz") as archive:
        archive.extractall(parent, filter="data")
    return parent / "run_0_1_0"


@pytest.fixture
def saved(unpacked, tmp_path):
    """A run with a checkpoint."""
    return Path(shutil.copytree(unpacked, tmp_path / "run"))


def test_fields_that_are_left_out_have_their_defaults(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"config": CONFIG, "data": "0123"}))
    settings, notes = read(tmp_path)
    assert settings.config["train.steps"] == "600"
    assert settings.config["model.channels"] == "[8]"
    assert settings.config["sampler.name"] == "DDIM"
    assert settings.config["train.seed"] == "0"
    assert settings.config["sampler.eta"] == "0.0"
    assert {"train.seed", "sampler.eta"} <= settings.defaults
    assert not {"train.steps", "sampler.name"} & settings.defaults
    assert settings.facts == {"data fingerprint": "0123"}
    assert notes == []


def test_a_component_of_the_user_s_own_is_not_imported(tmp_path):
    config = config_with(model_name="no_such_module:Mine", model_size=3)
    (tmp_path / "config.json").write_text(json.dumps({"config": config, "data": None}))
    settings, notes = read(tmp_path)
    assert settings.config["model.name"] == "no_such_module:Mine"
    assert settings.config["model.size"] == "3"
    assert notes == []


def test_the_environment_is_that_of_the_newest_checkpoint(saved):
    settings, notes = read(saved)
    assert settings.facts["diffusion_jax"] == "0.1.0"
    assert settings.facts["jax"][0].isdigit()
    assert settings.facts["image"] == "8x8x1"
    assert settings.facts["classes"] == "10"
    assert notes == []


def test_accepted_changes_are_told(tmp_path):
    change = {"step": 600, "field": "train.batch_size", "before": 8, "after": 16}
    content = {"config": CONFIG, "data": "0123", "changes": [change, {"field": "x"}, 3]}
    (tmp_path / "config.json").write_text(json.dumps(content))
    settings, _ = read(tmp_path)
    first, second = settings.facts["changed on resume"].split("; ")
    assert first == "train.batch_size from 8 to 16 at step 600"
    assert second == "x from ? to ? at step ?"


def test_config_json_counts_where_the_checkpoint_is_older(saved):
    content = json.loads((saved / "config.json").read_text())
    content["config"]["train"]["steps"] = 12
    (saved / "config.json").write_text(json.dumps(content))
    settings, notes = read(saved)
    assert settings.config["train.steps"] == "12"
    assert notes == []


@pytest.mark.parametrize("text", [None, "", "{", "[1]", "null", '{"config": 3}', "[" * 100_000, '{"config": {"a": 1}}'])
def test_without_config_json_the_config_is_that_of_the_newest_checkpoint(saved, text):
    whole, _ = read(saved)
    (saved / "config.json").unlink()
    if text is not None:
        (saved / "config.json").write_text(text)
    settings, notes = read(saved)
    assert settings.config == whole.config
    assert len(notes) == (text is not None)
    assert all(note.startswith("config.json cannot be used (") and "\n" not in note for note in notes)


def test_a_damaged_checkpoint_is_a_note(saved):
    (saved / "checkpoints" / "6" / "meta" / "metadata").write_text("damaged")
    settings, (note,) = read(saved)
    assert note.startswith("the description in the newest checkpoint cannot be used (no sound checkpoint")
    assert settings.config["train.steps"] == "6"


def nested(depth):
    return json.loads("[" * depth + "]" * depth)


@pytest.mark.parametrize("value", [nested(400), {"x": nested(400)}, None, [{}, [None, 1.5]], "a\nb"])
def test_any_value_is_text(tmp_path, value):
    (tmp_path / "config.json").write_text(json.dumps({"config": config_with(train_extra=value), "data": value}))
    settings, _ = read(tmp_path)
    assert settings.config["train.steps"] == "600"
    assert all(isinstance(text, str) for text in settings.config.values())
    assert settings.facts == ({"data fingerprint": value} if isinstance(value, str) else {})


def test_an_empty_directory_has_no_settings(tmp_path):
    settings, notes = read(tmp_path)
    assert (settings.config, settings.facts, notes) == ({}, {}, [])
