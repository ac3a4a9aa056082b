"""sample.py, called in this process."""

import dataclasses
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from absl import flags
from absl.testing import flagsaver
from PIL import Image

import diffusion_jax as dj

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def command():
    sys.path.insert(0, str(ROOT))
    import sample

    flags.FLAGS(["sample.py", "--workdir", "", "--allow_code"])  # tiny's own network
    return sample


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    dj.train(tiny.config(tiny.AFFINE, steps=2), folder)
    return folder


def run(command, workdir, out, **kwargs) -> None:
    with flagsaver.flagsaver(workdir=str(workdir), out=str(out), **kwargs):
        command.main([])


def test_an_npz_holds_pictures_and_labels(command, workdir, tmp_path):
    out = tmp_path / "deep" / "x.npz"
    run(command, workdir, out, num_samples=12, labels=["3", "5"], steps=2)
    with np.load(out) as arrays:
        assert arrays["image"].shape == (12, 8, 8, 1)
        assert arrays["image"].dtype == np.uint8
        assert arrays["label"].tolist() == [3, 5] * 6


def test_batch_size_changes_no_picture_and_the_seed_every_one(command, workdir, tmp_path):
    outs = [tmp_path / f"{i}.npz" for i in range(3)]
    settings = {"num_samples": 9, "steps": 2, "sampler": "DDIM(eta=1.0)"}
    run(command, workdir, outs[0], **settings)
    run(command, workdir, outs[1], batch_size=8, **settings)
    run(command, workdir, outs[2], seed=1, **settings)
    a, b, c = (np.load(out)["image"].astype(int) for out in outs)
    assert np.abs(a - b).max() <= 1  # 1e-5 before rounding
    assert all(np.abs(a - c).max(axis=(1, 2, 3)) > 1)


class Mine(dj.samplers.DDIM):
    """A sampler of one's own."""


def test_a_sampler_of_ones_own_draws_where_code_is_allowed(command, workdir, tmp_path):
    outs = [tmp_path / f"{i}.npz" for i in range(2)]
    for out, name in zip(outs, ("DDIM", "test_sample_command:Mine"), strict=True):
        run(command, workdir, out, num_samples=2, steps=2, sampler=f"{name}(eta=0.5)")
    ours, mine = (np.load(out)["image"] for out in outs)
    np.testing.assert_array_equal(ours, mine)
    with flagsaver.flagsaver(allow_code=False), pytest.raises(SystemExit, match="give --allow_code"):
        run(command, workdir, tmp_path / "x.npz", sampler="test_sample_command:Mine")


def test_grid_and_clip_are_handed_on(command, workdir, tmp_path):
    outs = [tmp_path / f"{i}.npz" for i in range(2)]
    for out, given in zip(outs, ({}, {"grid": "Leading"}), strict=True):
        run(command, workdir, out, num_samples=4, steps=3, **given)
    uniform, leading = (np.load(out)["image"].astype(int) for out in outs)
    assert np.abs(uniform - leading).max() > 1
    with flagsaver.flagsaver(clip=False):
        assert command.settings() == {"clip": False}


def test_guidance_flags_are_handed_on(command, workdir, tmp_path, monkeypatch):
    load = dj.load
    run_here = load(workdir, allow_code=True)
    other = {"w": np.float32(0.5), "u": np.float32(0.7), "classes": np.linspace(-0.9, 0.9, 11, dtype="f4")}
    weaker = dataclasses.replace(run_here, params=other)
    monkeypatch.setattr(dj, "load", lambda folder, **how: weaker if folder == "w" else load(folder, **how))
    given = {"guidance": 6.0, "guidance_rescale": 0.3, "threshold": 0.9, "steps": 3}
    run(
        command,
        workdir,
        tmp_path / "x.npz",
        num_samples=4,
        guidance_interval=["0.5", "20"],
        weaker="w",
        **given,
    )
    exact = run_here.sample(
        jax.random.key(0), 4, labels=range(4), guidance_interval=(0.5, 20.0), weaker=weaker, **given
    )
    with np.load(tmp_path / "x.npz") as arrays:
        np.testing.assert_array_equal(arrays["image"], dj.pixels.to_uint8(exact))


def test_a_png_is_a_grid(command, workdir, tmp_path):
    run(command, workdir, tmp_path / "x.png", num_samples=4, steps=2)
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.size[0] > 2 * 8
        assert len(picture.getcolors(10_000)) > 10


def test_a_folder_has_a_file_a_picture(command, workdir, tmp_path):
    run(command, workdir, tmp_path / "out", num_samples=3, steps=2)
    assert [p.name for p in sorted((tmp_path / "out").iterdir())] == [
        "000000_0.png",
        "000001_1.png",
        "000002_2.png",
    ]


@pytest.mark.parametrize(
    ("show", "kwargs", "rows", "columns", "breaks"),
    [
        ("strip", {"num_samples": 3}, 6, 5, 2),  # 4 steps
        ("strip", {"num_samples": 1, "frames": 3, "labels": ["none"]}, 2, 3, 0),
        ("forward", {}, 4, 9, 0),
        ("forward", {"num_samples": 2, "frames": 4}, 2, 4, 0),
        ("interpolation", {"num_samples": 2, "frames": 3, "sampler": "DDPM"}, 2, 3, 0),
        ("guidance", {}, 10, 4, 0),
        ("guidance", {"labels": ["7", "1"], "scales": ["0.5", "1", "3"], "steps": 2}, 2, 3, 0),
    ],
)
def test_each_figure_has_its_rows_and_columns(show, kwargs, rows, columns, breaks, command, workdir, tmp_path):
    """8x8 pictures are shown 40 pixels wide, with 2 between them, under one line of 14 pixels."""
    run(command, workdir, tmp_path / "x.png", show=show, **kwargs)
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.height == 2 + 14 + rows * 42 + breaks * 6
        # Captions stand to the left, and widen a column by half of its picture at most.
        assert columns * 42 <= picture.width < columns * 60 + 60


@pytest.mark.parametrize("ending", [".gif", ".webp"])
def test_an_animation_has_a_frame_for_each_state(ending, command, workdir, tmp_path):
    out = tmp_path / f"x{ending}"
    run(command, workdir, out, show="animation", num_samples=4, frames=3)
    with Image.open(out) as picture:
        assert picture.n_frames == 3
        assert picture.size == (2 + 2 * 42, 2 + 2 * 56)


def test_out_is_samples_with_the_ending_of_what_is_shown(command, workdir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for show in ("forward", "animation"):
        with flagsaver.flagsaver(workdir=str(workdir), show=show):
            command.main([])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["samples.gif", "samples.png"]


def test_words_that_no_flag_takes_are_refused(command, workdir):
    with flagsaver.flagsaver(workdir=str(workdir)), pytest.raises(SystemExit) as stop:
        command.main(["sample.py", "false"])  # of --clip false
    assert str(stop.value.code).startswith('error: "false": is no flag; write --flag=value, --noflag for off')


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_samples": 2, "labels": ["1", "2", "3"]}, "error: --labels 1,2,3: 3 classes for 2 pictures"),
        ({"workdir": "nowhere"}, "error: no checkpoint in nowhere; train first"),
        ({"steps": 0}, "error: steps = 0: must be at least 1"),
        ({"steps": 101}, "error: steps = 101: the schedule has only 100 times"),
        ({"labels": ["12"]}, "error: labels contain 12: must be from 0 to 9"),
        ({"labels": ["three"]}, "error: --labels three: give whole numbers"),
        ({"num_samples": 0}, "error: --num_samples 0"),
        ({"sampler": "DIMM"}, 'error: --sampler.name = "DIMM"'),
        ({"out": "x.gif"}, "error: --out x.gif: the ending must be"),
        ({"labels": ["none"], "guidance": 2.0}, "error: guidance = 2.0: needs labels"),
        ({"batch_size": 0}, "error: batch_size = 0"),
        ({"labels": []}, "error: --labels is empty"),
        ({"out": "."}, "error: --out .: is a folder"),
        ({"guidance": 1e38}, "error: pictures from 0 on are not finite"),
        ({"show": "strip", "out": "x.npz"}, "error: --out x.npz: the ending must be .png"),
        ({"show": "forward", "out": "folder"}, "error: --out folder: the ending must be .png"),
        ({"show": "animation", "out": "x.png"}, "error: --out x.png: the ending must be .gif or .webp"),
        ({"show": "strip", "frames": 6}, "error: frames = 6: 4 steps have only 5 times; use at most so many"),
        ({"show": "forward", "frames": 1}, "error: frames = 1: show at least two"),
        ({"show": "forward", "num_samples": 181}, "error: 181 pictures: the data have 180 held-out ones"),
        ({"show": "forward", "steps": 3}, "error: --steps: has no meaning with --show forward; leave it out"),
        ({"show": "guidance", "guidance": 2.0}, "error: --guidance: has no meaning with --show guidance"),
        ({"show": "guidance", "num_samples": 2}, "error: --num_samples: has no meaning with --show guidance"),
        ({"show": "guidance", "labels": ["none"]}, "error: --labels none: guidance leads to a class"),
        ({"show": "guidance", "labels": ["11"]}, "error: labels contain 11: must be from 0 to 9"),
        ({"show": "guidance", "scales": ["one"]}, "error: --scales one: give numbers, such as 0,1,2"),
        ({"show": "guidance", "scales": ["nan"]}, "error: scales = [nan]: give at least one, all finite"),
        ({"show": "guidance", "scales": []}, "error: --scales is empty: give numbers"),
        ({"guidance_interval": ["0.3"]}, "error: guidance_interval = (0.3,): give two noise levels"),
        ({"guidance_interval": ["low", "3"]}, "error: --guidance_interval low,3: give numbers"),
        ({"guidance_rescale": 2.0}, "error: guidance_rescale = 2.0: must be in [0, 1]"),
        ({"threshold": 99.5}, "error: threshold = 99.5: must be in [0, 1]"),
        ({"weaker": "nowhere"}, "error: no checkpoint in nowhere"),
        ({"show": "forward", "weaker": "nowhere"}, "error: --weaker: has no meaning with --show forward"),
        ({"frames": 3}, "error: --frames: has no meaning with --show grid"),
        ({"scales": ["1"]}, "error: --scales: has no meaning with --show grid"),
    ],
)
def test_bad_input_ends_with_one_line(kwargs, message, command, workdir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {"workdir": str(workdir), "out": str(tmp_path / "x.png")} | kwargs
    with flagsaver.flagsaver(**settings), pytest.raises(SystemExit) as stop:
        command.main([])
    assert str(stop.value.code).startswith(message)
    assert "\n" not in str(stop.value.code)
    assert list(tmp_path.iterdir()) == []
