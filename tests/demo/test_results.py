"""The command below a result writes the same file."""

from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import diffusion_jax as dj
from diffusion_jax.demo.results import generate
from diffusion_jax.demo.settings import ALL_CLASSES, Choices
from diffusion_jax.process.pixels import NO_LABEL


@pytest.mark.parametrize(
    ("name", "show", "settings"),
    [
        ("grey", "grid", Choices(ALL_CLASSES, 1.5, 3, "", 5, 4)),
        ("grey", "strip", Choices(NO_LABEL, 3.0, 3, "", 0, 2)),
        ("colour", "animation", Choices(3, 2.5, 2, "DDIM(eta=0.5)", 2**32 - 1, 3)),
    ],
)
def test_the_command_writes_the_same_bytes(name, show, settings, make_demo, run_command):
    result = generate(make_demo(name), show, settings)
    run_command(result.command)
    (written,) = Path().iterdir()
    assert written.name == result.path.name
    assert written.read_bytes() == result.path.read_bytes()


def test_a_grid_shows_the_images_of_the_seed_under_their_classes(make_demo):
    demo = make_demo()
    found = Image.open(generate(demo, "grid", Choices(ALL_CLASSES, 2.0, 3, "", 5, 4)).path)
    x = demo.run.sample(jax.random.key(5), 4, labels=[0, 1, 2, 3], steps=3, guidance=2.0)
    np.testing.assert_array_equal(found, dj.images.grid(x, labels=["0", "1", "2", "3"]))


def test_an_animation_moves(make_demo):
    with Image.open(generate(make_demo(), "animation", Choices(NO_LABEL, 1.0, 3, "", 0, 4)).path) as image:
        assert image.n_frames == 4


def test_each_result_has_files_of_its_own(make_demo):
    demo, settings = make_demo(), Choices(ALL_CLASSES, 1.5, 3, "", 5, 4)
    paths = {generate(demo, "grid", settings).path for _ in range(2)}
    assert len(paths) == 2
    assert {path.parent.parent for path in paths} == {demo.folder}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Choices(ALL_CLASSES, 1.5, 101, "", 0, 4), "steps = 101: must be at most 100"),
        (Choices(10, 1.5, 3, "", 0, 4), "labels contain 10: must be from 0 to 9"),
        (Choices(ALL_CLASSES, 1.5, 3, "DIMM", 0, 4), '--sampler.name = "DIMM": unknown name; did you mean DDIM'),
    ],
)
def test_what_does_not_fit_the_run_is_refused(settings, message, make_demo):
    with pytest.raises(ValueError, match=message):
        generate(make_demo(), "grid", settings)
