import copy

import jax
import ml_collections
import pytest
import tiny

import diffusion_jax as dj
from diffusion_jax.config.components import ConfigError
from diffusion_jax.config.experiment import Experiment, as_plain


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


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("trian", {}, r"config\.trian: there is no such field; did you mean train"),
        ("train.stpes", 5, r"config\.train\.stpes: there is no such field; did you mean steps"),
        ("train.steps", "many", r"config\.train\.steps = 'many': must be of type int"),
        ("train.steps", 0, "steps = 0: must be an integer >= 1"),
        ("train.ema_decay", 1.5, "ema_decay = 1.5"),
        ("mesh", {"data": 3}, "mesh: data = 3"),
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
        ("model.dtype", "float16", 'dtype = "float16"'),
        ("model", {"name": "tiny:Nameless"}, "Nameless has no attribute num_classes"),
        ("loss.weighting", {"name": "MinSRN"}, "did you mean MinSNR"),
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


def test_a_config_from_a_file_imports_nothing():
    config = changed("sampler", {"name": "os:getcwd"})
    with pytest.raises(ConfigError, match="may not import code"):
        build(config, allow_code=False)


def test_a_config_may_use_the_users_own_component():
    config = changed("model", {"name": "tiny:Affine"})
    config["sampler"]["guidance"] = 1.0
    assert isinstance(build(config).network.model, tiny.Affine)


def test_values_that_are_not_plain_are_refused():
    with pytest.raises(ConfigError, match="plain values"):
        as_plain(changed("schedule", dj.schedules.Cosine()))


def test_the_sampler_in_a_config_is_a_pytree():
    assert jax.tree.leaves(build(tiny.config()).sampling.sampler) == [0.0]
