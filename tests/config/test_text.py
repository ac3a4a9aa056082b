"""Components written as text, as on a command line."""

import pytest

import diffusion_jax as dj
from diffusion_jax.config.components import ConfigError
from diffusion_jax.config.text import grid_from_text, sampler_from_text, schedule_from_text


@pytest.mark.parametrize(
    ("text", "sampler"),
    [
        ("DDPM", dj.samplers.DDPM()),
        ("DDIM(eta=0.5)", dj.samplers.DDIM(0.5)),
        ("DPMSolverPP(order=1)", dj.samplers.DPMSolverPP(1)),
        (' DDPM(variance="large") ', dj.samplers.DDPM("large")),
    ],
)
def test_a_sampler_is_read_from_text(text, sampler):
    assert sampler_from_text(text) == sampler


@pytest.mark.parametrize("text", ["DIMM", "DDIM(0.5)", "DDIM(eta=)", "DDIM(etaa=1)", "", "__import__('os')", "os:x"])
def test_a_bad_sampler_is_refused(text):
    with pytest.raises(ConfigError, match="^--sampler") as error:
        sampler_from_text(text)
    assert "\n" not in str(error.value)


def test_grids_and_schedules_are_read_too_and_components_inside_components():
    assert grid_from_text("UniformLogSNR(last=0.05)") == dj.grids.UniformLogSNR(0.05)
    shifted = dj.schedules.Shifted(dj.schedules.Cosine(steps=50), resolution=128)
    assert schedule_from_text("Shifted(schedule=Cosine(steps=50), resolution=128)") == shifted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("DDIM(0.5)", r"--sampler \"DDIM\(0.5\)\": must be a name, or as in DDIM\(eta=0.5\) \(name the arguments\)"),
        ("DDIM(eta=x)", r"\(x is not a value; put text in quotes and \(\) after a name\)"),
        ("DDIM(eta=0.1, eta=0.2)", r"\(eta is given twice\)"),
        ("DDIM(eta=1.2)", r"--sampler: eta = 1.2: must be in \[0, 1\]"),
        ("my_module:Mine", "must be a name of the library; use --allow_code to import your own"),
    ],
)
def test_the_message_says_what_is_wrong_with_the_text(text, message):
    with pytest.raises(ConfigError, match=message):
        sampler_from_text(text)
