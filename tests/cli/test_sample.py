"""diffusion-jax sample, called in this process."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from PIL import Image
from slow import slow

import diffusion_jax as dj
from diffusion_jax.cli.main import main
from diffusion_jax.interop.run_directory import write_run


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    """A run of the network of three numbers, on the digits."""
    directory = tmp_path_factory.mktemp("runs") / "digits"
    params = {"w": np.float32(0.3), "u": np.float32(0.1), "classes": np.linspace(-0.9, 0.9, 11, dtype="f4")}
    config = tiny.config({"name": "tiny:Numbered", "num_classes": 10})
    write_run(directory, config, params, (8, 8, 1), "numbers of this test")
    return directory


def sample(workdir, out=None, **flags) -> int:
    """The exit code of the command, with --allow_code for tiny's own network."""
    values = {"workdir": workdir, "out": out, "allow_code": True} | flags
    return main(["sample", *(f"--{name}={value}" for name, value in values.items() if value is not None)])


def generate(workdir, out, **flags) -> np.ndarray:
    """The images that the command writes to an .npz file."""
    assert sample(workdir, out, **flags) == 0
    with np.load(out) as arrays:
        return arrays["image"]


def test_an_npz_holds_images_and_labels(workdir, tmp_path, capsys):
    out = tmp_path / "deep" / "x.npz"
    assert sample(workdir, out, num_samples=12, labels="3,5", steps=2) == 0
    assert capsys.readouterr().out == f"12 images in {out}\n"
    with np.load(out) as arrays:
        assert arrays["image"].shape == (12, 8, 8, 1)
        assert arrays["image"].dtype == np.uint8
        assert arrays["label"].tolist() == [3, 5] * 6


def test_batch_size_changes_no_image_and_the_seed_every_one(workdir, tmp_path):
    settings = {"num_samples": 9, "steps": 2, "sampler": "DDIM(eta=1.0)"}
    changes = ({}, {"batch_size": 8}, {"seed": 1})
    a, b, c = (generate(workdir, tmp_path / "x.npz", **settings, **change).astype(int) for change in changes)
    assert np.abs(a - b).max() <= 1  # 1e-5 before rounding
    assert all(np.abs(a - c).max(axis=(1, 2, 3)) > 1)


def test_a_sampler_from_a_module_is_used_only_with_allow_code(workdir, tmp_path, capsys):
    names = ("DDIM", "diffusion_jax.sampling.samplers.ddim:DDIM")
    ours, theirs = (
        generate(workdir, tmp_path / "x.npz", num_samples=2, steps=2, sampler=f"{name}(eta=0.5)") for name in names
    )
    np.testing.assert_array_equal(ours, theirs)
    assert sample(workdir, tmp_path / "y.npz", sampler=names[1], allow_code=False) == 1
    assert "use --allow_code" in capsys.readouterr().err


def test_grid_and_clip_reach_the_sampler(workdir, tmp_path):
    changes = ({}, {"grid": "Leading"}, {"clip": False, "guidance": 1.5})
    uniform, leading, free = (
        generate(workdir, tmp_path / "x.npz", num_samples=4, steps=3, **change).astype(int) for change in changes
    )
    assert np.abs(uniform - leading).max() > 1
    clipped = generate(workdir, tmp_path / "x.npz", num_samples=4, steps=3, guidance=1.5, clip=True).astype(int)
    assert np.abs(free - clipped).max() > 1


def test_guidance_flags_reach_the_sampler(workdir, tmp_path, monkeypatch):
    load = dj.load
    here = load(workdir, allow_code=True)
    params = {"w": np.float32(0.5), "u": np.float32(0.7), "classes": np.linspace(-0.3, 0.3, 11, dtype="f4")}
    weaker = dataclasses.replace(here, params=params)
    monkeypatch.setattr(dj, "load", lambda directory, **how: weaker if directory == "w" else load(directory, **how))
    flags = {"guidance": 6.0, "guidance_rescale": 0.3, "guidance_interval": "0.5,20", "weaker": "w"}
    image = generate(workdir, tmp_path / "x.npz", num_samples=4, threshold=0.9, steps=3, **flags)
    guidance = dj.Guidance(6.0, interval=(0.5, 20.0), rescale=0.3, weaker=weaker)
    exact = here.sample(jax.random.key(0), 4, labels=range(4), guidance=guidance, threshold=0.9, steps=3)
    np.testing.assert_array_equal(image, dj.pixels.to_uint8(exact))


def test_a_png_is_a_grid(workdir, tmp_path):
    assert sample(workdir, tmp_path / "x.png", num_samples=4, steps=2) == 0
    with Image.open(tmp_path / "x.png") as image:
        assert image.size[0] > 2 * 8
        assert len(image.getcolors(10_000)) > 10


def test_images_that_cannot_be_shown_are_arrays(tmp_path, capsys):
    params = {"w": np.float32(0.1), "u": np.float32(0.2), "classes": np.linspace(-0.3, 0.3, 11, dtype="f4")}
    config = tiny.config({"name": "tiny:Numbered", "num_classes": 10})
    write_run(tmp_path / "run", config, params, (8, 8, 4), "numbers of this test")
    assert sample(tmp_path / "run", tmp_path / "x.npz", num_samples=3, steps=2) == 0
    with np.load(tmp_path / "x.npz", allow_pickle=False) as arrays:
        assert (arrays["image"].shape, arrays["image"].dtype) == ((3, 8, 8, 4), np.float32)
    capsys.readouterr()
    for flags in ({"out": tmp_path / "x.png"}, {"out": tmp_path / "new"}, {"show": "strip"}):
        assert sample(tmp_path / "run", **flags) == 1
        message = "error: images of 4 channels cannot be shown; use --show grid --out samples.npz"
        assert capsys.readouterr().err.strip() == message
    assert not (tmp_path / "new").exists()


def test_a_directory_has_one_file_per_image(workdir, tmp_path):
    assert sample(workdir, tmp_path / "out", num_samples=3, steps=2) == 0
    names = [path.name for path in sorted((tmp_path / "out").iterdir())]
    assert names == ["000000_0.png", "000001_1.png", "000002_2.png"]


@pytest.mark.parametrize(
    ("show", "flags", "rows", "columns", "breaks"),
    [
        ("strip", {"num_samples": 3}, 6, 5, 2),  # 4 steps
        ("forward", {"num_samples": 2, "frames": 4}, 2, 4, 0),
        ("interpolation", {"num_samples": 2, "frames": 3, "sampler": "DDPM"}, 2, 3, 0),
        ("guidance", {"labels": "7,1", "scales": "0.5,1,3", "steps": 2, "guidance_interval": "0.3,3"}, 2, 3, 0),
        *slow(
            ("strip", {"num_samples": 1, "frames": 3, "labels": "none"}, 2, 3, 0),
            ("forward", {}, 4, 9, 0),
            ("guidance", {}, 10, 4, 0),
        ),
    ],
)
def test_each_figure_has_its_rows_and_columns(show, flags, rows, columns, breaks, workdir, tmp_path):
    """8x8 images are shown 96 pixels wide, with 2 between them, under one line of 14 pixels."""
    assert sample(workdir, tmp_path / "x.png", show=show, **flags) == 0
    with Image.open(tmp_path / "x.png") as image:
        assert image.height == 2 + 14 + rows * 98 + breaks * 6
        # Captions stand to the left, and widen a column by half of its image at most.
        assert columns * 98 <= image.width < columns * 116 + 60


@pytest.mark.parametrize("ending", [".gif", ".webp"])
def test_an_animation_has_one_frame_per_state(ending, workdir, tmp_path):
    out = tmp_path / f"x{ending}"
    assert sample(workdir, out, show="animation", num_samples=4, frames=3) == 0
    with Image.open(out) as image:
        assert image.n_frames == 3
        assert image.size == (2 + 2 * 98, 2 + 2 * 112)


def test_classes_are_named_on_the_command_line_and_in_the_files(workdir, tmp_path, monkeypatch, capsys):
    names = ("café", "a, b", "猫/犬", "2", "x" * 250, "\x1b[31m", "..", "none", "8", "9")
    load = dj.load
    monkeypatch.setattr(
        dj, "load", lambda *args, **kwargs: dataclasses.replace(load(*args, **kwargs), class_names=names)
    )
    labels = f'cafe\u0301,"a, b",猫/犬,"2",{"x" * 250},#5,..,"none"'
    assert sample(workdir, tmp_path / "out", num_samples=8, labels=labels, steps=1) == 0
    assert [path.name[:9] for path in sorted((tmp_path / "out").iterdir())] == [
        *("000000_ca", "000001_a,", "000002_猫_", "000003_2.", "000004_xx", "000005__[", "000006___", "000007_no")
    ]
    assert sample(workdir, tmp_path / "x.npz", num_samples=8, labels=labels, steps=1) == 0
    with np.load(tmp_path / "x.npz") as arrays:
        assert arrays["label"].tolist() == list(range(8))
    capsys.readouterr()
    for text, message in (
        ("2", "means 2 classes; write #2 or #3"),
        ("cafe", 'must be a number from 0 to 9 or one of "café"'),
    ):
        assert sample(workdir, tmp_path / "y.png", num_samples=8, labels=text, steps=1) == 1
        assert capsys.readouterr().err.startswith(f"error: --labels={text}: {message}")


def test_out_defaults_to_samples_with_the_ending_of_the_figure(workdir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for show in ("forward", "animation"):
        assert sample(workdir, show=show) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["samples.gif", "samples.png"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"num_samples": 2, "labels": "1,2,3"}, "--labels=1,2,3: 3 classes for 2 images"),
        ({"workdir": "nowhere"}, "no checkpoint in nowhere; train first"),
        ({"steps": 0}, "flag --steps=0: 0 is not"),
        ({"steps": 101}, "steps = 101: must be at most 100"),
        ({"labels": "12"}, "--labels=12: must be a number from 0 to 9"),
        ({"labels": "three"}, "--labels=three: must be a number from 0 to 9"),
        ({"num_samples": 0}, "flag --num_samples=0: 0 is not a positive integer"),
        ({"sampler": "DIMM"}, '--sampler.name = "DIMM"'),
        ({"out": "x.gif"}, "--out=x.gif: the ending must be .png or .npz, or nothing for a directory"),
        ({"labels": "none", "guidance": 2.0}, "guidance = 2.0: needs labels"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"labels": ""}, "--labels=: must be a number"),
        ({"out": "."}, "--out=.: is a directory"),
        ({"out": "x" * 240 + ".png"}, f"--out={'x' * 240}.png: the name must have at most 240 bytes"),
        ({"out": "猫" * 79 + ".png"}, f"--out={'猫' * 79}.png: the name must have at most 240 bytes"),
        ({"out": "a\x1b[31m.gif"}, r"--out=a\x1b[31m.gif: the ending must be .png or .npz"),
        ({"guidance": 1e38}, "images from 0 on are not finite"),
        ({"show": "strip", "out": "x.npz"}, "--out=x.npz: the ending must be .png"),
        ({"show": "forward", "out": "folder"}, "--out=folder: the ending must be .png"),
        ({"show": "animation", "out": "x.png"}, "--out=x.png: the ending must be .gif or .webp"),
        ({"show": "strip", "frames": 6}, "frames = 6: 4 steps have 5 times; use at most 5"),
        ({"show": "forward", "frames": 1}, "frames = 1: must be an integer >= 2"),
        ({"show": "forward", "num_samples": 181}, "n = 181: must be from 1 to 180"),
        ({"show": "forward", "steps": 3}, "--steps: does not apply to --show forward; leave it out"),
        ({"show": "guidance", "guidance": 2.0}, "--guidance: does not apply to --show guidance"),
        ({"show": "guidance", "num_samples": 2}, "--num_samples: does not apply to --show guidance"),
        ({"show": "guidance", "labels": "none"}, "--labels=none: guidance leads to a class"),
        ({"show": "guidance", "labels": "11"}, "--labels=11: must be a number from 0 to 9"),
        ({"show": "guidance", "scales": "one"}, "--scales=one: must be numbers, such as 0,1,2"),
        ({"show": "guidance", "scales": "nan"}, "scales = [nan]: must be one or more finite numbers"),
        ({"show": "guidance", "scales": ""}, "--scales=: must be numbers"),
        ({"guidance_interval": "0.3"}, "guidance_interval = (0.3,): must be two noise levels"),
        ({"guidance_interval": "low,3"}, "--guidance_interval=low,3: must be numbers"),
        ({"guidance_rescale": 2.0}, "guidance_rescale = 2.0: must be in [0, 1]"),
        ({"threshold": 99.5}, "threshold = 99.5: must be in [0, 1]"),
        ({"weaker": "nowhere", "guidance": 2.0}, "no checkpoint in nowhere"),
        ({"weaker": "nowhere"}, "--guidance: required with --guidance_interval, --guidance_rescale and --weaker"),
        ({"show": "forward", "weaker": "nowhere"}, "--weaker: does not apply to --show forward"),
        ({"frames": 3}, "--frames: does not apply to --show grid"),
        ({"scales": "1"}, "--scales: does not apply to --show grid"),
        ({"show": "grids"}, "flag --show=grids"),
        ({"seed": -1}, "flag --seed=-1: -1 is not an integer in the range [0, 4294967295]"),
    ],
)
def test_bad_input_ends_with_one_line(flags, message, workdir, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert sample(**{"workdir": workdir, "out": tmp_path / "x.png"} | flags) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith(f"error: {message}")
    assert all("batch/s" in line or not line for line in lines[:-1])  # progress, where images were generated
    assert list(tmp_path.iterdir()) == []
