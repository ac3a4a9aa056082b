import dataclasses

import numpy as np
import pytest
import tiny

import diffusion_jax as dj
from diffusion_jax.cli.labels import parse_labels, repeat_labels
from diffusion_jax.config.components import ConfigError
from diffusion_jax.demo.settings import (
    ALL_CLASSES,
    Choices,
    class_choices,
    default_settings,
    max_steps,
    sampler_choices,
)
from diffusion_jax.process.pixels import NO_LABEL
from diffusion_jax.run import Network, Run, Sampling

START = Choices(label=3, guidance=2.0, steps=5, sampler="", seed=7, number=6)
CLASSES = 5


def make_run(num_classes=CLASSES, schedule=dj.schedules.Cosine(100), names=(), **network) -> Run:
    network = Network(tiny.AnyClasses(num_classes), schedule, dj.predictions.V(), (4, 4, 1), num_classes, **network)
    return Run(network, {}, Sampling(dj.samplers.Heun(), steps=30, guidance=1.5), class_names=names)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"number": 0}, "number = 0: must be an integer from 1 to 64"),
        ({"number": 2.5}, "number = 2.5: must be an integer from 1 to 64"),
        ({"steps": 1001}, "steps = 1001: must be an integer from 1 to 1000"),
        ({"seed": None}, "seed = None: must be an integer from 0 to 4294967295"),
        ({"seed": -1}, "seed = -1: must be an integer from 0"),
        ({"guidance": float("nan")}, "guidance = nan: must be"),
        ({"label": -3}, "label = -3: must be an integer >= -2"),
        ({"sampler": None}, "sampler = None: must be"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(START, **change)


def test_a_sampler_is_of_the_library_whatever_the_run_may_import():
    with pytest.raises(ConfigError, match='--sampler "os:system": must be a name of the library'):
        dataclasses.replace(START, sampler="os:system").arguments(make_run())


def test_the_arguments_are_what_was_chosen():
    arguments = dataclasses.replace(START, sampler="DDIM(eta=0.5)").arguments(make_run())
    assert arguments.pop("labels").tolist() == [3] * 6
    assert arguments == {"steps": 5, "guidance": 2.0, "sampler": dj.samplers.DDIM(eta=0.5)}


def test_without_a_class_there_is_no_guidance_and_the_run_keeps_its_sampler():
    settings = dataclasses.replace(START, label=NO_LABEL)
    assert settings.arguments(make_run()) == {"steps": 5, "labels": None}
    assert settings.flags() == ["--steps", "5", "--seed", "7"]


@pytest.mark.parametrize(("guidance", "text"), [(2.0, "2"), (1.3, "1.3"), (0.1 + 0.2, "0.30000000000000004")])
def test_guidance_is_written_so_that_it_is_read_as_the_same_number(guidance, text):
    flags = dataclasses.replace(START, guidance=guidance).flags()
    assert flags[flags.index("--guidance") + 1] == text
    assert float(text) == guidance


NAMES = [(), tuple("abcde"), tuple("01234"), ("1", "2", "3", "4", "5"), ("None", "a", "b", "c", "d")]


@pytest.mark.parametrize("names", NAMES, ids="-".join)
@pytest.mark.parametrize("label", [ALL_CLASSES, NO_LABEL, 0, 3])
@pytest.mark.parametrize("number", [1, 6])
def test_the_flag_of_the_labels_is_read_as_the_same_labels(label, number, names):
    run, settings = make_run(names=names), dataclasses.replace(START, label=label, number=number)
    expected = settings.arguments(run)["labels"]

    def read(flags: list[str], default: np.ndarray | None) -> np.ndarray | None:
        if not flags:
            return default
        name, text = flags
        assert name == "--labels"
        labels = parse_labels(text, names, CLASSES)
        return None if labels is None else repeat_labels(labels, number)

    np.testing.assert_array_equal(read(settings.sample_labels(run), np.arange(number) % CLASSES), expected)
    np.testing.assert_array_equal(read(settings.edit_labels(run), None), expected)


def test_a_class_is_written_as_its_number_alone_where_no_other_has_that_name():
    settings = dataclasses.replace(START, label=3)
    texts = [settings.sample_labels(make_run(names=names))[1] for names in NAMES]
    assert texts == ["3", "3", "3", "#3", "3"]


def test_the_choices_are_those_of_the_run():
    assert class_choices(make_run(0)) == []
    named = class_choices(make_run(names=("cat", "dog\n", "c", "d", "e")))
    assert named[:4] == [("all in turn", ALL_CLASSES), ("no class", NO_LABEL), ("cat", 0), ("dog\\n", 1)]
    labelled = class_choices(make_run(unlabelled=False))
    assert [label for _, label in labelled] == [ALL_CLASSES, 0, 1, 2, 3, 4]


def test_the_page_starts_with_the_settings_of_the_run():
    assert default_settings(make_run()) == Choices(ALL_CLASSES, 1.5, 30, "", 0, 16)
    assert default_settings(make_run(0)).label == NO_LABEL
    assert default_settings(make_run(0)).sample_labels(make_run(0)) == []


def test_the_samplers_to_choose_are_those_that_fit_the_network():
    run = make_run()
    network = dataclasses.replace(run.network, model=dj.models.UNet(num_classes=CLASSES))
    texts, samplers = zip(*sampler_choices(dataclasses.replace(run, network=network)), strict=True)
    assert (texts[0], samplers[0]) == ("of the run (Heun)", "")
    assert texts[1:] == samplers[1:]
    assert {"DDPM", "DDIM", "UniPC"} < {*samplers}
    assert "SelfConditioned" not in samplers  # this network is not


@pytest.mark.parametrize(
    ("schedule", "steps"),
    [(dj.schedules.Cosine(10), 10), (dj.schedules.Cosine(5000), 1000), (dj.schedules.RectifiedFlow(), 1000)],
)
def test_a_discrete_schedule_limits_the_steps(schedule, steps):
    run = make_run(schedule=schedule)
    assert max_steps(run) == steps
    assert default_settings(run).steps == min(30, steps)
