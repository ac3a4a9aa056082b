"""Model, loss, data and sampler of a config that do not fit together are refused, each pair in one line."""

import pytest
import tiny

import diffusion_jax as dj
from diffusion_jax.config.components import ConfigError
from diffusion_jax.config.experiment import Experiment


def build(config, image_shape=(8, 8, 1)) -> Experiment:
    return Experiment.from_config(config, image_shape, 10)


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


def test_the_variance_and_the_estimates_of_a_network_are_trained_by_its_loss():
    experiment = build(with_options())
    assert experiment.loss.learns_variance
    assert experiment.loss.times == dj.losses.LossSecondMomentTimes(history=5)
    assert experiment.network.model.self_condition
    # A network without the attribute is assumed to fit its loss.
    build(with_options(loss=LEARNING | {"self_condition": 0.0}) | {"model": tiny.AFFINE})


def test_a_network_without_the_attribute_self_condition_is_refused_with_such_a_loss():
    """Training would condition it on its estimates, sampling would not."""
    with pytest.raises(ConfigError, match=r"config\.model: Affine has no attribute self_condition; set it to True"):
        build(with_options() | {"model": tiny.AFFINE})


@pytest.mark.parametrize(
    ("model", "loss", "message"),
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
def test_a_network_and_a_loss_that_contradict_each_other_are_refused_in_one_line(model, loss, message):
    loss = {key: value for key, value in (LEARNING | loss).items() if value is not ...}
    with pytest.raises(ConfigError, match=message) as error:
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
    config = tiny.config()
    config["model"]["num_classes"] = 0
    with pytest.raises(ConfigError, match="sampler.guidance = 1.5: the model has no classes; use 1.0"):
        build(config)


def test_guidance_without_training_on_images_without_labels_is_refused():
    config = tiny.config()
    config["loss"]["label_drop"] = 0.0
    with pytest.raises(ConfigError, match="sampler.guidance = 1.5: needs loss.label_drop above 0"):
        build(config)


def test_data_that_do_not_fit_the_model_are_refused():
    with pytest.raises(ConfigError, match=r"config.data: images has shape \(3, 8, 8\): must be \(H, W, C\)"):
        build(tiny.config(tiny.AFFINE), image_shape=(3, 8, 8))
    with pytest.raises(ConfigError, match="config.model.num_classes = 2: the data have 10; use that, or 0"):
        build(tiny.config({"name": "tiny:TwoClasses"}))
    with pytest.raises(ConfigError, match="config.model: Nameless has no attribute num_classes; set it to"):
        build(tiny.config({"name": "tiny:Nameless"}))
