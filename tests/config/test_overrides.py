"""Texts of the command line, as the configs that training receives."""

import functools
import operator
import re
import sys
import types

import pytest
from ml_collections import ConfigDict

from diffusion_jax.cli.config_flag import take_config
from diffusion_jax.config.components import ConfigError
from diffusion_jax.config.experiment import Experiment
from diffusion_jax.config.files import load_config
from diffusion_jax.config.overrides import override_fields

REMOVED = object()


def change(config, *arguments):
    """{path: value} of all that the arguments change in a config."""

    def leaves(tree, path=""):
        for key, value in tree.items():
            yield from leaves(value, f"{path}{key}.") if isinstance(value, dict) else [(f"{path}{key}", value)]

    changed, rest = take_config([f"--config={config}", *arguments])
    assert rest == []
    old, new = (dict(leaves(each.to_dict())) for each in (load_config(config), changed))
    changes = {path: value for path, value in new.items() if path not in old or old[path] != value}
    return changes | dict.fromkeys(old.keys() - new.keys(), REMOVED)


LR_SCHEDULE = ("decay_steps", "end_value", "init_value", "name", "peak_value", "warmup_steps")
NO_LR_SCHEDULE = {f"optimizer.lr_schedule.{name}": REMOVED for name in LR_SCHEDULE}


@pytest.mark.parametrize(
    ("config", "argument", "changes"),
    [
        # an integer or a tuple
        ("folder", "data.size=48,64", {"data.size": (48, 64)}),
        ("folder", "data.size=(48, 64)", {"data.size": (48, 64)}),
        ("folder", "data.size=[48,64]", {"data.size": (48, 64)}),
        ("folder", "data.size= 48 , 64 ", {"data.size": (48, 64)}),
        ("folder", "data.size=48", {"data.size": 48}),
        # tuples
        ("digits", "model.attention=", {"model.attention": ()}),
        ("digits", "model.attention=()", {"model.attention": ()}),
        ("digits", "model.channels=32", {"model.channels": (32,)}),
        ("digits", "model.channels=(32)", {"model.channels": (32,)}),
        ("digits", "model.channels=32,", {"model.channels": (32,)}),
        ("digits", "model.channels=8,16,32", {"model.channels": (8, 16, 32)}),
        ("digits", "sampler.guidance_interval=0.3,3", {"sampler.guidance_interval": (0.3, 3)}),
        ("digits", "sampler.guidance_interval=", {"sampler.guidance_interval": ()}),
        # a number or a component
        ("digits", "optimizer.lr_schedule=1e-4", {"optimizer.lr_schedule": 1e-4} | NO_LR_SCHEDULE),
        (
            "digits",
            "optimizer.lr_schedule=constant_schedule(value=1e-3)",
            NO_LR_SCHEDULE | {"optimizer.lr_schedule.name": "constant_schedule", "optimizer.lr_schedule.value": 1e-3},
        ),
        ("digits", "optimizer.lr_schedule.peak_value=1", {"optimizer.lr_schedule.peak_value": 1.0}),
        # components
        ("digits", "sampler=DDIM(eta=0.5)", {"sampler.name": "DDIM", "sampler.eta": 0.5}),
        ("digits", "sampler=DDIM(eta=0.5, steps=7)", {"sampler.name": "DDIM", "sampler.eta": 0.5, "sampler.steps": 7}),
        ("digits", "sampler=DDIM", {"sampler.name": "DDIM"}),
        ("digits", "sampler.name=DDIM", {"sampler.name": "DDIM"}),
        ("digits", "sampler.grid=Karras(rho=5)", {"sampler.grid.name": "Karras", "sampler.grid.rho": 5}),
        (
            "digits",
            "sampler.grid=Explicit(times=(1, 0.5, 0))",
            {"sampler.grid.name": "Explicit", "sampler.grid.times": (1, 0.5, 0)},
        ),
        (
            "digits",
            "schedule=Shifted(schedule=Cosine(), resolution=64)",
            {"schedule.name": "Shifted", "schedule.schedule.name": "Cosine", "schedule.resolution": 64},
        ),
        ("digits", "optimizer=lion(weight_decay=0.1)", {"optimizer.name": "lion", "optimizer.weight_decay": 0.1}),
        ("folder", "loss.weighting=Sigmoid()", {"loss.weighting.name": "Sigmoid"}),
        ("folder", "loss.weighting.gamma=3", {"loss.weighting.gamma": 3.0}),
        ("digits", "loss.times.name=LogNormalTimes", {"loss.times.name": "LogNormalTimes"}),
        ("digits", 'data=NPZ(path="a b.npz")', {"data.name": "NPZ", "data.path": "a b.npz"}),
        # plain values, also of fields that the config leaves out
        ("digits", "train.steps=1_000", {"train.steps": 1000}),
        ("digits", "train.ema_decay=0", {"train.ema_decay": 0.0}),
        ("digits", "mesh.fsdp=2", {"mesh.fsdp": 2}),
        ("digits", "optimizer.weight_decay=1", {"optimizer.weight_decay": 1.0}),
        ("digits", "optimizer.mu_dtype=bfloat16", {"optimizer.mu_dtype": "bfloat16"}),
        ("digits", "optimizer.nesterov", {"optimizer.nesterov": True}),
        ("folder", "data.path=48,64", {"data.path": "48,64"}),
        ("folder", "data.path=none", {"data.path": "none"}),
        ("folder", "data.csv=", {"data.csv": ""}),
        ("folder", "data.csv_separator=|", {"data.csv_separator": "|"}),
    ],
)
def test_a_text_means_what_it_says(config, argument, changes):
    assert change(config, f"--config.{argument}") == changes


@pytest.mark.parametrize(
    ("config", "arguments", "changes"),
    [
        (
            "digits",
            ["data=Folder(path='x')", "data.size=8,8"],
            {"data.name": "Folder", "data.path": "x", "data.size": (8, 8)},
        ),
        ("digits", ["data.path=x", "data.name=NPZ"], {"data.name": "NPZ", "data.path": "x"}),
        ("digits", ["sampler.eta=1", "sampler=DDIM()"], {"sampler.name": "DDIM", "sampler.eta": 1.0}),
        (
            "digits",
            ["sampler.grid.last=0.1", "sampler.grid.name=UniformLogSNR"],
            {"sampler.grid.name": "UniformLogSNR", "sampler.grid.last": 0.1},
        ),
    ],
)
def test_components_come_before_their_fields(config, arguments, changes):
    assert change(config, *(f"--config.{argument}" for argument in arguments)) == changes


@pytest.mark.parametrize(
    ("config", "argument", "message"),
    [
        ("folder", "data.size=48x64", "--config.data.size=48x64: must be an integer (8) or numbers with commas (8,16)"),
        ("folder", "data.size=", "--config.data.size=: must be an integer (8) or numbers"),
        ("folder", "data.size=none", "--config.data.size=none: must be an integer (8) or numbers"),
        ("folder", "data.size=48.5", "--config.data.size=48.5: must be an integer (8) or numbers"),
        ("digits", "model.channels=8 16", "--config.model.channels=8 16: must be numbers with commas (8,16)"),
        ("digits", "model.channels=(8,16", "--config.model.channels=(8,16: must be numbers with commas (8,16)"),
        ("digits", "model.attention=none", "--config.model.attention=none: must be numbers with commas (8,16)"),
        ("digits", "train.steps=", "--config.train.steps=: must be an integer (8)"),
        ("digits", "train.steps=1e3", "--config.train.steps=1e3: must be an integer (8)"),
        ("digits", "train.steps=true", "--config.train.steps=true: must be an integer (8)"),
        ("digits", "train.steps", "--config.train.steps: must be an integer (8)"),
        ("digits", "train.ema_decay=nan", "--config.train.ema_decay=nan: must be a number (0.5)"),
        ("digits", "data.flip=2", "--config.data.flip=2: must be true or false"),
        ("folder", "data.path", "--config.data.path: must be text"),
        (
            "digits",
            "optimizer.lr_schedule=",
            '--config.optimizer.lr_schedule=: must be a number (0.5) or a component ("warmup_c',
        ),
        ("digits", "optimizer.lr_schedule=fast", 'config.optimizer.lr_schedule.name = "fast": unknown name'),
        (
            "digits",
            "optimizer.learning_rate=1",
            "config.optimizer.learning_rate: there is no such field; set config.optim",
        ),
        ("digits", "optimizer.mask=1", "config.optimizer.mask: cannot be set on the command line"),
        ("digits", "loss.schedule.steps=5", "config.loss.schedule: there is no such field; set config.schedule"),
        ("digits", "sampler=DDIM(0.5)", '--config.sampler "DDIM(0.5)": must be a name, or as in DPMSolverPP() (n'),
        ("digits", "sampler=DDIM(etta=1)", "config.sampler.etta: there is no such field; did you mean eta"),
        ("digits", "sampler=5", 'config.sampler.name = "5": unknown name'),
        ("digits", "sampler", '--config.sampler: must be a component ("DPMSolverPP()")'),
        ("folder", "loss.weighting", '--config.loss.weighting: must be a component ("MinSNR()")'),
        ("folder", "data.name=Digits", 'config.data.name = "Digits": does not take holdout, max_skipped, path of the '),
        ("folder", "loss.weighting.name=NinSMR", 'config.loss.weighting.name = "NinSMR": unknown name; did you'),
        ("digits", "train=5", "config.train: is a section; set one of its fields, such as --config.train.steps=500"),
        ("digits", "los.name=x", "config.los: there is no such field; did you mean loss"),
        ("digits", "loss.wieghting=x", "config.loss.wieghting: there is no such field; did you mean weighting"),
        ("digits", "data.name.x=1", "config.data.name.x: there is no such field"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_to_write(config, argument, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        take_config([f"--config={config}", f"--config.{argument}"])


def test_a_tuple_is_given_once():
    with pytest.raises(ConfigError, match="--config.model.channels: must be given once; write all values with commas"):
        take_config(["--config=digits", "--config.model.channels=8", "--config.model.channels=16"])


def test_a_change_of_the_name_is_refused_only_for_arguments_that_the_config_has():
    config = ConfigDict({"schedule": {"name": "LinearBeta", "end": 0.03}})
    with pytest.raises(ConfigError, match='"Cosine": does not take end of the config; write --config.schedule="Cosine'):
        override_fields(config, [("schedule.name", "Cosine")])
    override_fields(config, [("schedule", "Cosine()"), ("schedule.steps", "500")])
    assert config.to_dict() == {"schedule": {"name": "Cosine", "steps": 500}}


def test_a_section_that_the_config_leaves_out_is_made():
    config = ConfigDict({"data": {"name": "Digits"}})
    override_fields(config, [("mesh.fsdp", "2"), ("sampler", "DDPM"), ("sampler.steps", "5")])
    assert config.to_dict() == {
        "data": {"name": "Digits"},
        "mesh": {"fsdp": 2},
        "sampler": {"name": "DDPM", "steps": 5},
    }


def test_an_argument_without_a_type_has_that_of_its_value(monkeypatch):
    def make(size=8, rate=0.5, mode="fast", parts=(1,), *, which=None):
        """A model of the user's own."""

    module = types.ModuleType("of_this_test")
    module.Make = make
    monkeypatch.setitem(sys.modules, "of_this_test", module)
    config = ConfigDict({"model": {"name": "of_this_test:Make", "size": 8, "rate": 0.5, "mode": "fast", "parts": (1,)}})
    texts = {"size": "9", "rate": "1", "mode": "3", "parts": "2", "which": "a,b"}
    override_fields(config, [(f"model.{name}", text) for name, text in texts.items()])
    values = {name: value for name, value in config.model.to_dict().items() if name != "name"}
    assert values == {"size": 9, "rate": 1.0, "mode": "3", "parts": (2,), "which": "a,b"}
    assert isinstance(values["rate"], float)


def test_training_receives_what_was_written():
    """The objects, through the command line."""
    texts = ["optimizer.lr_schedule=1e-4", "model.attention=", "model.channels=8,16", "sampler=DDIM(eta=0.5)"]
    config, _ = take_config(["--config=digits", *(f"--config.{text}" for text in texts)])
    experiment = Experiment.from_config(config, (8, 8, 1), 10)
    assert experiment.lr_schedule(77) == 1e-4
    assert (experiment.network.model.attention, experiment.network.model.channels) == ((), (8, 16))
    assert (experiment.sampling.sampler.eta, experiment.sampling.steps) == (0.5, 20)


@pytest.mark.parametrize("path", ["weight_decay", "eps", "lr_schedule.peak_value", "lr_schedule.end_value"])
def test_an_integer_for_a_number_is_a_float_where_the_type_allows_both(path):
    """As before: the dtype of what optax computes follows from it."""
    lr_schedule = {"name": "warmup_cosine_decay_schedule", "peak_value": 0.5}
    config = ConfigDict({"optimizer": {"name": "adamw", "weight_decay": 0.5, "lr_schedule": lr_schedule}})
    override_fields(config, [(f"optimizer.{path}", "1")])
    assert str(functools.reduce(operator.getitem, path.split("."), config.optimizer)) == "1.0"
