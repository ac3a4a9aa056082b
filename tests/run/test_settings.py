"""`Guidance` and `Sampling` check their fields, and settings are overridden one by one."""

import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax.run import Guidance, Sampling


def test_values_are_converted():
    guidance = Guidance(2, interval=np.array([0.5, np.inf]), rescale=1)
    assert guidance.interval == (0.5, np.inf)
    assert type(guidance.rescale) is float
    settings = Sampling(guidance=3)
    assert settings.guidance == Guidance(3.0)


def test_an_override_of_none_changes_nothing_and_a_number_changes_the_scale_alone():
    settings = Sampling(dj.samplers.DDPM(), steps=7, guidance=Guidance(2.0, interval=(0.3, 3.0)))
    assert settings.override(steps=None, clip=None, guidance=None) == settings
    assert settings.override(guidance=3.0).guidance == Guidance(3.0, interval=(0.3, 3.0))
    assert settings.override(guidance=Guidance(3.0)).guidance == Guidance(3.0)
    assert settings.override(clip=False, threshold=0.0) == Sampling(
        dj.samplers.DDPM(), steps=7, guidance=settings.guidance, clip=False
    )


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"scale": float("nan")}, "guidance = nan"),
        ({"scale": [2.0, np.inf]}, "guidance = inf: must be finite"),
        ({"scale": jnp.array([2.0, jnp.nan])}, "guidance = nan"),
        ({"scale": 1e39}, r"guidance = 1e\+39: must be finite"),
        ({"scale": "2"}, "guidance = '2': must be a number"),
        ({"interval": (0.3,)}, r"guidance_interval = \(0.3,\): must be two noise levels, low < high"),
        ({"interval": (3.0, 0.3)}, r"guidance_interval = \(3.0, 0.3\): must be two noise levels"),
        ({"interval": (0.3, 0.3)}, r"guidance_interval = \(0.3, 0.3\): must be two noise levels"),
        ({"interval": 0.5}, r"guidance_interval = \(0.5,\): must be two noise levels"),
        ({"interval": ("a", 1.0)}, r"guidance_interval = \('a', 1.0\): must be a number"),
        ({"interval": (-1.0, 1.0)}, r"guidance_interval = -1.0: must be >= 0"),
        ({"rescale": 1.5}, r"guidance_rescale = 1.5: must be in \[0, 1\]"),
        ({"rescale": np.ones(2)}, r"guidance_rescale has shape \(2,\): must be one number"),
    ],
)
def test_bad_guidance_is_refused_in_one_line(kwargs, message):
    with pytest.raises(ValueError, match=message) as error:
        Guidance(**({"scale": 2.0} | kwargs))
    assert "\n" not in str(error.value)


def test_guidance_needs_a_scale():
    with pytest.raises(TypeError, match="scale"):
        Guidance(interval=(0.3, 3.0))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"sampler": dj.samplers.DDIM}, "sampler = .*DDIM.*: must be of type Sampler"),
        ({"grid": "Uniform"}, "grid = 'Uniform': must be of type Grid"),
        ({"steps": 4.0}, "steps = 4.0: must be an integer"),
        ({"steps": 0}, "steps = 0: must be an integer >= 1"),
        ({"clip": "no"}, "clip = 'no': must be of type bool, such as True"),
        ({"threshold": "0.9"}, "threshold = '0.9': must be a number"),
        ({"threshold": [0.9]}, r"threshold has shape \(1,\): must be one number"),
        ({"threshold": -0.5}, r"threshold = -0.5: must be in \[0, 1\]"),
        ({"guidance": np.ones(3)}, r"guidance has shape \(3,\): must be one number"),
    ],
)
def test_bad_settings_are_refused_in_one_line(kwargs, message):
    with pytest.raises(ValueError, match=message) as error:
        Sampling(**kwargs)
    assert "\n" not in str(error.value)
