import copy

import jax
import ml_collections
import numpy as np
import pytest
import tiny

import diffusion_jax as dj
from diffusion_jax.config.components import ConfigError
from diffusion_jax.config.experiment import Experiment, as_plain
from diffusion_jax.config.text import sampler_from_text


def build(config, **kwargs) -> Experiment:
    return Experiment.from_config(config, (8, 8, 1), 10, **kwargs)


def changed(path: str, value) -> dict:
    """The tiny config with one field set (or, with ..., taken away)."""
    config = copy.deepcopy(tiny.config())
    *sections, field = path.split(".")
    inside = config
    for section in sections:
        inside = inside.setdefault(section, {})
    if value is ...:
        del inside[field]
    else:
        inside[field] = value
    return config


def test_a_config_becomes_the_objects_it_names():
    config = changed("sampler.grid", {"name": "UniformLogSNR", "last": 0.05})
    config["schedule"] = {"name": "Shifted", "resolution": 32, "schedule": {"name": "Cosine"}}
    config["loss"]["weighting"] = {"name": "MinSNR", "gamma": 3}
    experiment = build(config)
    assert experiment.loss.schedule == dj.schedules.Shifted(dj.schedules.Cosine(), 32)
    assert experiment.loss.weighting == dj.losses.MinSNR(3.0)
    assert experiment.sampling.grid == dj.grids.UniformLogSNR(0.05)
    assert experiment.sampling.sampler == dj.samplers.DDIM(0.0)
    assert experiment.network.model.channels == (8,)
    assert experiment.plan.batch_size == 16


def test_a_config_dict_and_plain_values_are_the_same():
    config = ml_collections.ConfigDict(tiny.config())
    config.model.channels = (8,)
    assert as_plain(config) == as_plain(tiny.config())


def test_learning_rate_schedule_and_clipping_are_optax_s():
    rate = {"name": "linear_schedule", "init_value": 1.0, "end_value": 0.0, "transition_steps": 10}
    config = changed("optimizer", {"name": "sgd", "lr_schedule": rate, "clip_norm": 0.5})
    experiment = build(config)
    params = {"w": np.zeros(2, np.float32)}
    state = experiment.tx.init(params)
    for k in range(3):
        updates, state = experiment.tx.update({"w": np.array([3.0, 4.0], np.float32)}, state, params)
        # The gradient of norm 5 is cut to 0.5, then multiplied by the rate at update k.
        np.testing.assert_allclose(updates["w"], -(1 - k / 10) * np.array([0.3, 0.4]), rtol=1e-5)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("trian", {}, r"config\.trian: there is no such field; did you mean train"),
        ("train.stpes", 5, r"config\.train\.stpes: there is no such field; did you mean steps"),
        ("train.steps", "many", r"config\.train\.steps = 'many': must be of type int"),
        ("train.steps", 0, "steps = 0: must be an integer >= 1"),
        ("train.ema_decay", 1.5, "ema_decay = 1.5"),
        ("mesh", {"data": 3}, "mesh data = 3"),
        ("model", ..., r"config\.model: the section is missing"),
        ("model.name", "Unet", r'config\.model\.name = "Unet".*did you mean UNet'),
        ("model.groups", 3, r"config\.model: groups = 3"),
        ("model.num_classes", 7, r"config\.model\.num_classes = 7: the data have 10"),
        ("model.attention", [3], "attention = "),
        ("model.channels", [8, 16, 16, 16, 16], "images must be divisible by 16, got 8x8"),
        ("schedule.name", "Cosin", r"did you mean Cosine"),
        ("sampler.guidence", 2.0, r"config\.sampler\.guidence: there is no such field; did you mean guidance"),
        ("sampler.stepz", 5, r"did you mean steps"),
        ("schedule.steps", 1.5, r"config\.schedule\.steps = 1.5: must be of type int, not float"),
        ("schedule.name", 3, r"config\.schedule = "),
        ("sampler.name", "DIMM", "did you mean DDIM"),
        ("sampler.eta", 2.0, r"config\.sampler: eta = 2.0"),
        ("sampler.steps", 0, r"config\.sampler: steps = 0"),
        ("sampler.steps", 200, "steps = 200: must be at most 100, the steps of the schedule"),
        ("loss.label_drop", -0.1, "label_drop = -0.1"),
        ("loss.label_drop", 0.0, "guidance = 1.5: needs loss.label_drop above 0"),
        ("schedule.offset", float("nan"), r"config\.schedule\.offset = nan: must be a finite number"),
        ("schedule.name", "Discrete", '"Discrete": unknown name'),
        ("schedule.steps", 10**9, "steps = 1000000000: must be an integer from 1 to 10000"),
        ("optimizer.weight_decay", float("inf"), "weight_decay = inf: must be a finite number"),
        ("model.dtype", "float16", 'dtype = "float16"'),
        ("model", {"name": "tiny:Nameless"}, "Nameless has no attribute num_classes"),
        ("loss.weighting", {"name": "MinSRN"}, "did you mean MinSNR"),
        ("optimizer.name", "adamx", "did you mean adamax"),
        ("optimizer.lr_schedule", -1.0, r"lr_schedule = -1.0: must be > 0"),
        ("optimizer.lr_schedule", 0.0, r"config\.optimizer: lr_schedule = 0.0: must be > 0"),
        ("optimizer.lr_schedule", 0, r"lr_schedule = 0.0: must be > 0"),
        ("optimizer.lr_schedule", ..., "missing a required argument: 'lr_schedule'"),
        ("optimizer.lr_schedule", "fast", r"config\.optimizer: lr_schedule = 'fast': must be a number"),
        ("optimizer.lr_schedule", {"name": "constant_schedul"}, "did you mean constant_schedule"),
        ("optimizer.lr_schedule", {"name": "adam", "learning_rate": 1.0}, "lr_schedule = .*: must be a number"),
        ("optimizer.clip_norm", -1.0, r"config\.optimizer: clip_norm = -1.0: must be >= 0"),
        ("optimizer.name", "constant_schedule", "must be an optimizer with a learning_rate, such as adamw"),
        ("optimizer.name", "tiny:not_an_optimizer", "must be an optimizer with a learning_rate, such as adamw"),
        ("optimizer.clip_norm", "big", r"config\.optimizer\.clip_norm = 'big'"),
        ("data.name", "Digit", "did you mean Digits"),
        ("data.nmae", "x", "no such field"),
    ],
)
def test_what_is_wrong_is_named_in_one_line_before_any_compile(path, value, message):
    with pytest.raises(ConfigError, match=message) as error:
        build(changed(path, value))
    assert "\n" not in str(error.value)


def test_eps_prediction_with_zero_terminal_snr_is_refused():
    config = changed("schedule", {"name": "ZeroTerminalSNR", "schedule": {"name": "LinearBeta"}})
    config["prediction"] = {"name": "Eps"}
    with pytest.raises(ConfigError, match="Eps cannot be used with ZeroTerminalSNR.*use V"):
        build(config)


LEARNING = {
    "name": "HybridLoss",
    "self_condition": 0.5,
    "vlb_weight": 0.01,
    "times": {"name": "LossSecondMomentTimes", "history": 5},
}
OPTIONS = {"learn_variance": True, "self_condition": True}


def with_options(model=OPTIONS, loss=LEARNING) -> dict:
    config = tiny.config()
    return config | {"model": config["model"] | model, "loss": loss}


def test_a_network_s_variance_and_guesses_are_trained_by_its_loss():
    experiment = build(with_options())
    assert experiment.loss.learns_variance
    assert experiment.loss.times == dj.losses.LossSecondMomentTimes(history=5)
    assert experiment.network.model.self_condition
    # A network that does not say what it makes is taken at the loss's word.
    build(with_options(loss=LEARNING | {"self_condition": 0.0}) | {"model": tiny.AFFINE})


def test_a_network_that_does_not_say_that_it_takes_guesses_is_refused():
    """Training would show it some, sampling none."""
    with pytest.raises(ConfigError, match=r"config\.model: Affine has no attribute self_condition; set it to True"):
        build(with_options() | {"model": tiny.AFFINE})


@pytest.mark.parametrize(
    ("model", "loss", "says"),
    [
        (
            {"learn_variance": False},
            {},
            r"model\.learn_variance = False: HybridLoss trains a variance",
        ),
        (
            {"learn_variance": True},
            {"name": "DiffusionLoss", "vlb_weight": ...},
            r"model\.learn_variance = True: DiffusionLoss does not train a variance; use HybridLoss",
        ),
        (
            {"self_condition": False},
            {},
            r"model\.self_condition = False: config\.loss\.self_condition is 0\.5; set it to True",
        ),
        (
            {"self_condition": True},
            {"self_condition": 0.0},
            r"model\.self_condition = True: config\.loss\.self_condition is 0; set that to 0\.5",
        ),
        ({}, {"vlb_weight": -1.0}, r"config\.loss: vlb_weight = -1\.0: must be > 0 and finite"),
        ({}, {"times": {"name": "LossSecondMomentTime"}}, "did you mean LossSecondMomentTimes"),
    ],
)
def test_a_network_and_a_loss_that_do_not_agree_are_refused_in_one_line(model, loss, says):
    loss = {key: value for key, value in (LEARNING | loss).items() if value is not ...}
    with pytest.raises(ConfigError, match=says) as error:
        build(with_options(OPTIONS | model, loss))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["HybridLoss", "VLBLoss"])
def test_a_bound_over_steps_of_a_continuous_schedule_is_refused(name):
    config = with_options(loss={"name": name, "self_condition": 0.5})
    config["schedule"] = {"name": "RectifiedFlow"}
    with pytest.raises(ConfigError, match=f"config.loss: {name} cannot be used with RectifiedFlow"):
        build(config)


@pytest.mark.parametrize("label_drop", [0.0, 0.1])
def test_a_run_knows_whether_its_network_was_trained_without_labels(label_drop):
    config = tiny.config(tiny.AFFINE)
    config["loss"]["label_drop"], config["sampler"]["guidance"] = label_drop, 1.0
    network = Experiment.from_config(config, (8, 8, 1), 10).network
    assert network.unlabelled == (label_drop > 0)


def test_guidance_without_classes_is_refused():
    config = changed("model.num_classes", 0)
    with pytest.raises(ConfigError, match="guidance = 1.5: the model has no classes"):
        build(config)


def test_a_config_from_a_file_imports_nothing():
    config = changed("sampler", {"name": "os:getcwd"})
    with pytest.raises(ConfigError, match="may not import code"):
        build(config, allow_code=False)


def test_a_user_s_own_component_is_reached_from_a_config():
    config = changed("model", {"name": "tiny:Affine"})
    config["sampler"]["guidance"] = 1.0
    assert isinstance(build(config).network.model, tiny.Affine)


def test_values_that_are_not_plain_are_refused():
    with pytest.raises(ConfigError, match="plain values"):
        as_plain(changed("schedule", dj.schedules.Cosine()))


@pytest.mark.parametrize(
    ("text", "sampler"),
    [
        ("DDPM", dj.samplers.DDPM()),
        ("DDIM(eta=0.5)", dj.samplers.DDIM(0.5)),
        ("DPMSolverPP(order=1)", dj.samplers.DPMSolverPP(1)),
        (' DDPM(variance="large") ', dj.samplers.DDPM("large")),
    ],
)
def test_a_sampler_is_read_from_the_command_line(text, sampler):
    assert sampler_from_text(text) == sampler


@pytest.mark.parametrize("text", ["DIMM", "DDIM(0.5)", "DDIM(eta=)", "DDIM(etaa=1)", "", "__import__('os')", "os:x"])
def test_a_bad_sampler_is_refused(text):
    with pytest.raises(ConfigError):
        sampler_from_text(text)


def test_the_sampler_in_a_config_is_a_pytree():
    assert jax.tree.leaves(build(tiny.config()).sampling.sampler) == [0.0]
