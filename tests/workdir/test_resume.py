"""What a resumed run may change: each field of a whole config, one by one."""

import json

import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny

import diffusion_jax as dj
from diffusion_jax.config.components import ConfigError
from diffusion_jax.config.defaults import with_defaults
from diffusion_jax.runtime.errors import CheckpointError
from diffusion_jax.workdir.resume import compare_experiments, flatten

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
    "train.steps_per_call",
    "train.data_on_device",
    "model.remat",
    "model.attention_kernel",
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
    return lambda config, data="x": compare_experiments(path, {"config": config, "data": data})


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
    compare_experiments(path, current, lambda fingerprint: fingerprint == "as it was computed before")
    with pytest.raises(ConfigError, match="^data fingerprint = 'x'"):
        compare_experiments(path, current, lambda fingerprint: False)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"config": {}}', '{"data": "x"}', '{"config": 3, "data": "x"}'])
def test_without_a_checkpoint_a_config_that_cannot_be_read_is_refused_in_one_line(text, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(text)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="no checkpoint in") as error:
        compare_experiments(path, {"config": CONFIG, "data": "x"})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("accept", ["model.channels", "model", "train.batch_size"])
def test_an_accepted_field_is_told_with_both_values(accept, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"config": CONFIG, "data": "x"}))
    field = {"model": "model.channels"}.get(accept, accept)
    found = compare_experiments(path, {"config": changed(field), "data": "x"}, accept=[accept])
    section, name = field.split(".")
    assert found == [{"field": field, "before": CONFIG[section][name], "after": "another"}]


@pytest.mark.parametrize("accept", [[], ["model.channel"], ["train"], ["data"]])
def test_a_field_that_is_not_accepted_by_name_is_refused(accept, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"config": CONFIG, "data": "x"}))
    with pytest.raises(ConfigError, match="go on with it by --accept model.channels, in Python"):
        compare_experiments(path, {"config": changed("model.channels"), "data": "x"}, accept=accept)


def test_other_data_can_be_accepted(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"config": CONFIG, "data": "x"}))
    (change,) = compare_experiments(path, {"config": CONFIG, "data": "y"}, accept=["data"])
    assert (change["before"], change["after"]) == ("x", "y")


class TestGoingOnWithChanges:
    """A run of nine steps of 8 images that goes on with batches of 16."""

    def config(self, **train):
        sizes = {"steps": 9, "batch_size": 8, "checkpoint_every": 3, "eval_every": 0, "log_every": 1}
        return tiny.config(tiny.AFFINE, **(sizes | train))

    @pytest.fixture
    def workdir(self, tmp_path):
        dj.train(self.config(), tmp_path / "run")
        return tmp_path / "run"

    def changes(self, workdir):
        return json.loads((workdir / "config.json").read_text()).get("changes", [])

    def test_the_change_is_recorded_and_kept(self, workdir):
        larger = {"steps": 12, "batch_size": 16}
        with pytest.raises(ConfigError, match="train.batch_size = 16: .* --accept train.batch_size"):
            dj.train(self.config(**larger), workdir)
        assert self.changes(workdir) == []
        dj.train(self.config(**larger), workdir, accept=["train.batch_size"])
        change = {"step": 9, "field": "train.batch_size", "before": 8, "after": 16}
        assert self.changes(workdir) == [change]
        dj.train(self.config(**larger | {"steps": 15}), workdir)  # the same command, without --accept
        assert self.changes(workdir) == [change]
        (workdir / "config.json").unlink()  # the checkpoints hold it too
        dj.train(self.config(**larger | {"steps": 18}), workdir)
        assert self.changes(workdir) == [change]
        assert dj.load(workdir, allow_code=True).step == 18

    def test_another_learning_rate_acts_from_there(self, workdir):
        config = self.config(steps=12)
        config["optimizer"] = {"name": "adamw", "lr_schedule": 1e-30, "weight_decay": 0.0, "clip_norm": 1.0}
        before = read_params(workdir)
        dj.train(config, workdir, accept=["optimizer"])
        np.testing.assert_array_equal(read_params(workdir)["w"], before["w"])
        assert {change["field"] for change in self.changes(workdir)} == {
            "optimizer.lr_schedule",
            "optimizer.weight_decay",
        }

    def test_a_state_that_does_not_fit_is_refused_and_the_run_is_as_it_was(self, workdir):
        config = self.config(steps=12)
        config["optimizer"] = {"name": "sgd", "lr_schedule": 0.1}
        before = (workdir / "config.json").read_bytes()
        with pytest.raises(ConfigError, match="optimizer.name, .*does not fit.* config.train.init_from") as error:
            dj.train(config, workdir, accept=["optimizer"])
        assert "\n" not in str(error.value)
        assert (workdir / "config.json").read_bytes() == before
        dj.train(self.config(steps=10), workdir)

    def test_the_step_is_that_of_the_checkpoint_that_was_sound(self, workdir):
        for path in (workdir / "checkpoints" / "9").rglob("*"):
            if path.is_file():
                path.write_bytes(b"")
        dj.train(self.config(steps=12, batch_size=16), workdir, accept=["train.batch_size"])
        assert self.changes(workdir) == [{"step": 6, "field": "train.batch_size", "before": 8, "after": 16}]

    def test_where_it_started_cannot_be_changed(self, workdir):
        with pytest.raises(ConfigError, match="train.init_from = 'x': .* counts for a new run only") as error:
            dj.train(self.config(init_from="x"), workdir, accept=["train"])
        assert "--accept" not in str(error.value)

    @pytest.mark.parametrize(
        ("accept", "message"),
        [
            (["train.batch"], 'no field "train.batch"'),
            (["changes"], 'no field "changes"'),
            ("mesh", "must be a list of fields"),
            (None, "must be a list of fields"),
            (3, "must be a list of fields"),
        ],
    )
    def test_a_wrong_name_is_refused(self, accept, message, tmp_path):
        with pytest.raises(ConfigError, match=message):
            dj.train(self.config(), tmp_path / "new", accept=accept)


def test_a_run_on_data_from_python_says_that_it_needs_them(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 1), np.uint8)
    config = tiny.config({"name": "tiny:AnyClasses"}, steps=2, batch_size=8, eval_every=0)
    config["sampler"].pop("guidance")
    dj.train(config, tmp_path / "run", images)
    longer = config | {"train": config["train"] | {"steps": 3}}
    with pytest.raises(ConfigError, match="dataset = None: the run in .* has data from Python; resume it from Python"):
        dj.train(longer, tmp_path / "run")
    with pytest.raises(ConfigError, match="^data fingerprint = .* the data are others; restore them, .* --accept data"):
        dj.train(longer, tmp_path / "run", images[::-1])
    assert dj.train(longer, tmp_path / "run", images)


def read_params(workdir):
    """The parameters, not their average, of the newest checkpoint."""
    step = max(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())
    with ocp.StandardCheckpointer() as reader:
        return reader.restore(workdir / "checkpoints" / str(step) / "rest")["params"]
