"""python -m diffusion_jax.edit, called in this process."""

import dataclasses
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from PIL import Image

import diffusion_jax as dj
from diffusion_jax.edit import __main__ as command
from diffusion_jax.edit import tasks
from diffusion_jax.edit.pictures import read
from diffusion_jax.workdir import write_run

DIGIT = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
LABELS = {"labels": "3"}


class Numbered(tiny.Affine):
    """The network of three numbers, which a config can tell its number of classes."""

    def __init__(self, num_classes: int):
        self.num_classes = num_classes


NUMBERED = {"name": "test_edit_command:Numbered", "num_classes": 10}


def write(path: Path, pixels: np.ndarray) -> str:
    Image.fromarray(pixels).save(path)
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Runs of a grey and of a coloured network of three numbers, and pictures for them."""
    folder = tmp_path_factory.mktemp("edit")
    params = {"w": np.float32(0.1), "u": np.float32(0.2), "classes": np.linspace(-0.3, 0.3, 11, dtype="f4")}
    for name, channels in (("grey", 1), ("colour", 3)):
        write_run(folder / name, tiny.config(NUMBERED), params, (8, 8, channels), "numbers of this test")
    write(folder / "a.png", DIGIT)
    write(folder / "b.png", DIGIT.T[::-1])
    write(folder / "small.png", DIGIT[:4, :4])
    write(folder / "wide.png", np.tile(DIGIT, (2, 3)))
    write(folder / "mask.png", np.where(np.arange(64).reshape(8, 8) < 24, 255, 0).astype(np.uint8))
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def run(folder: Path, task: str, out: Path, workdir="grey", image="a.png", **flags) -> None:
    files = {"image": image, "mask": flags.pop("mask", None)}
    given = {"workdir": str(folder / workdir), "out": str(out)} | flags
    for name, value in files.items():
        if value is not None:
            given[name] = ",".join(str(folder / part) if part else "" for part in value.split(","))
    command.main(["edit", task, "--allow_code", *(f"--{name}={value}" for name, value in given.items())])


@pytest.mark.parametrize(
    ("task", "flags", "rows", "columns"),
    [
        ("image_to_image", {"strength": 0.5, "image": "a.png,b.png"}, 2, 2),
        ("inpaint", {"mask": "mask.png", "image": "a.png,b.png", "sampler": "DDPM", "clip": True}, 2, 3),
        ("reconstruct", {"steps": 3, **LABELS}, 1, 3),
        ("interpolate", {"steps": 1, "frames": 4, "image": "a.png,b.png"}, 1, 6),
        ("super_resolve", {"image": "small.png", "noise_std": 0.1, "guidance": 2.0, **LABELS}, 1, 2),
        ("colorise", {"workdir": "colour", "grid": "Leading"}, 1, 2),
    ],
)
def test_each_task_makes_a_table_of_what_was_given_and_made(task, flags, rows, columns, folder, tmp_path):
    run(folder, task, tmp_path / "deep" / "x.png", **flags)
    with Image.open(tmp_path / "deep" / "x.png") as picture:
        assert picture.height == 2 + 14 + rows * 42
        assert columns * 42 <= picture.width <= columns * 42 + columns * 40


def test_a_folder_has_what_was_made_and_known_pixels_are_the_same_levels(folder, tmp_path):
    run(folder, "inpaint", tmp_path / "out", mask="mask.png", resamples=1, image="a.png,b.png")
    made = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "out").iterdir())]
    known = np.asarray(Image.open(folder / "mask.png")) > 0
    assert len(made) == 2
    for x, given in zip(made, (DIGIT, DIGIT.T[::-1]), strict=True):
        np.testing.assert_array_equal(x[known], given[known])
        assert (x[~known] != given[~known]).any()


def test_interpolation_writes_every_picture_of_a_pair(folder, tmp_path):
    run(folder, "interpolate", tmp_path / "out", image="a.png,b.png", frames=3, steps=30)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["000000.png", "000001.png", "000002.png"]
    first, last = (np.asarray(Image.open(tmp_path / "out" / name), int) for name in (names[0], names[-1]))
    assert np.abs(first - DIGIT).mean() < 10
    assert np.abs(last - DIGIT.T[::-1]).mean() < 10


def test_a_picture_depends_on_the_seed_and_not_on_the_others(folder, tmp_path):
    made = []
    for i, flags in enumerate(({"image": "a.png,b.png"}, {}, {"seed": 1})):
        run(folder, "image_to_image", tmp_path / str(i), **flags)
        made.append(np.asarray(Image.open(tmp_path / str(i) / "000000.png"), int))
    assert np.abs(made[0] - made[1]).max() <= 1
    assert np.abs(made[0] - made[2]).max() > 3


def test_what_is_restored_is_clipped_unless_asked_not_to(folder, tmp_path):
    def restored(**flags) -> bytes:
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.png"
        run(folder, "super_resolve", out, image="small.png", labels="9", noise_std=0.1, **flags)
        return out.read_bytes()

    assert restored() == restored(clip=True)
    assert restored() != restored(clip=False)


def test_the_denoiser_of_a_run_is_the_one_that_it_samples_with(folder):
    """dj.sample with it makes what run.sample makes, guidance and all."""
    loaded = dj.load(folder / "grey", allow_code=True)
    labels, key = np.array([1, 2, 3]), jax.random.key(0)
    given = {"labels": labels, "guidance": 3.0, "clip": False}
    x = dj.sample(key, loaded.denoiser(3, **given), loaded.schedule, (3, 8, 8, 1), steps=4)
    assert np.abs(x).max() > 1.01  # clipping would be seen
    np.testing.assert_allclose(np.clip(x, -1, 1), loaded.sample(key, 3, **given), rtol=0, atol=1e-5)


def test_pictures_are_read_to_their_levels(folder):
    x = read([str(folder / "a.png"), str(folder / "b.png")], (8, 8), 1, resize=False)
    np.testing.assert_allclose((x[..., 0] + 1) * 127.5, [DIGIT, DIGIT.T[::-1]], atol=1e-4)
    assert read([str(folder / "wide.png")], (8, 8), 3, resize=True).shape == (1, 8, 8, 3)


def test_pictures_are_cut_and_laid_on_a_background_as_the_run_s_own(folder, tmp_path):
    see_through = np.full((8, 16, 4), 255, np.uint8)
    see_through[:, :8, 3] = 0
    write(tmp_path / "wide.png", see_through)
    seen = []
    loaded = dj.load(folder / "colour", allow_code=True)
    for data in (
        {"name": "Folder", "crop": "squash", "background": "#000000"},
        {"name": "Folder", "background": "black"},
        {"name": "Digits", "background": "black"},
    ):
        run_of = dataclasses.replace(loaded, config={"data": data})
        seen.append(tasks._read(run_of, [str(tmp_path / "wide.png")], tasks.Options(resize=True)))
    squashed, cut, other = ((x[0, 4, :, 0] + 1) / 2 for x in seen)
    np.testing.assert_allclose(squashed[[0, 7]], [0, 1], atol=0.05)
    np.testing.assert_allclose(cut[[0, 7]], [0, 1], atol=0.05)
    np.testing.assert_allclose(other, 1)


def test_reconstruct_says_how_close_it_came(folder, tmp_path, capsys):
    run(folder, "reconstruct", tmp_path / "x.png", steps=3)
    printed = capsys.readouterr().out
    assert re.search(r"mean absolute error \d\.\d{4}, white being 1", printed)


def test_what_is_restored_measures_as_what_was_given(folder, tmp_path):
    """After a few steps of this network by far not, but for the projection at the end."""
    run(folder, "super_resolve", tmp_path / "out", image="small.png", steps=2)
    made = np.asarray(Image.open(tmp_path / "out" / "000000.png"), np.float64)
    np.testing.assert_allclose(made.reshape(4, 2, 4, 2).mean(axis=(1, 3)), DIGIT[:4, :4], atol=1)


@pytest.mark.parametrize(("task", "name"), [("reconstruct", "a.png"), ("inpaint", "mask.png")])
def test_a_picture_that_is_read_is_not_written_over(task, name, folder):
    before = (folder / name).read_bytes()
    mask = {"mask": "mask.png"} if task == "inpaint" else {}
    with pytest.raises(SystemExit, match=f"error: --out .*{name}: is one of the pictures given"):
        run(folder, task, folder / "grey" / ".." / name, **mask)
    assert (folder / name).read_bytes() == before


def test_a_word_that_no_flag_takes_is_refused(folder):
    with pytest.raises(SystemExit, match='error: "false": is no flag; write --flag=value'):
        command.main(["edit", "reconstruct", "--workdir", str(folder / "grey"), "--clip", "false"])


def test_help_names_every_task(capsys):
    command.main(["edit", "--help"])
    shown = capsys.readouterr().out
    assert all(f"\n  {name}" in shown for name in tasks.TASKS)


@pytest.mark.parametrize(
    ("task", "flags", "message"),
    [
        ("reconstruct", {"image": "a.png,"}, "error: --image {folder}/a.png,: has a comma and no name"),
        ("sharpen", {}, "error: give one task: image_to_image, inpaint"),
        ("reconstruct", {"workdir": "nowhere"}, "error: no checkpoint in"),
        ("reconstruct", {"image": ""}, "error: --image: give it"),
        ("inpaint", {}, "error: --mask: give it"),
        ("inpaint", {"mask": "mask.png,mask.png"}, "error: --mask: 2 masks for 1 pictures; give one"),
        ("inpaint", {"mask": "mask.png", "resamples": 0}, "error: resamples = 0: must be at least 1"),
        (
            "reconstruct",
            {"image": "wide.png"},
            "error: {folder}/wide.png is 24x16, not 8x8 pixels; resize it",
        ),
        ("reconstruct", {"image": "broken.png"}, "error: {folder}/broken.png is no PNG, JPEG or WebP"),
        ("reconstruct", {"image": "."}, "error: {folder} is a folder"),
        (
            "image_to_image",
            {"sampler": "mine:Own", "allow_code": False},
            'error: --sampler "mine:Own": is code',
        ),
        ("reconstruct", {"image": "none.png"}, "error: {folder}/none.png is not there"),
        ("super_resolve", {}, "error: {folder}/a.png is 8x8, not 4x4 pixels"),
        ("super_resolve", {"factor": 3}, "error: factor = 3: does not divide pictures of 8x8 pixels"),
        ("super_resolve", {"noise_std": -1.0, "image": "small.png"}, "error: noise_std = -1.0"),
        ("colorise", {}, "error: pictures have 1 channel(s)"),
        ("interpolate", {}, "error: --image: 1 pictures; give pairs"),
        ("interpolate", {"image": "a.png,b.png", "frames": 1}, "error: --frames 1: show at least two"),
        ("image_to_image", {"strength": 1.5}, "error: strength = 1.5: must be above 0, and 1 at most"),
        ("image_to_image", {"strength": 0.1}, "error: strength = 0.1: the smallest time of the grid is 0.25"),
        (
            "image_to_image",
            {"frames": 3},
            "error: --frames: has no meaning with image_to_image; leave it out",
        ),
        ("reconstruct", {"sampler": "DDPM"}, "error: --sampler: has no meaning with reconstruct"),
        ("image_to_image", {"sampler": "DIMM"}, 'error: --sampler.name = "DIMM"'),
        ("reconstruct", {"labels": "3,8"}, "error: --labels 3,8: 2 classes for 1 pictures; leave some out"),
        ("reconstruct", {"seed": 2**32}, "error: flag --seed=4294967296"),
        ("reconstruct", {"labels": "12"}, "error: labels contain 12: must be from 0 to 9"),
        ("reconstruct", {"labels": "three"}, "error: --labels three: give whole numbers"),
        ("reconstruct", {"guidance": 2.0}, "error: guidance = 2.0: needs labels"),
        ("reconstruct", {"steps": 101}, "error: steps = 101: the schedule has only 100 times"),
        ("reconstruct", {"steps": "few"}, "error: flag --steps=few"),
        ("reconstruct", {"colour": "red"}, "error: Unknown command line flag 'colour'"),
    ],
)
def test_bad_input_ends_with_one_line(task, flags, message, folder, tmp_path):
    with pytest.raises(SystemExit) as stop:
        run(folder, task, tmp_path / "x.png", **flags)
    assert str(stop.value.code).startswith(message.format(folder=folder))
    assert "\n" not in str(stop.value.code)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("x.gif", "error: --out x.gif: the ending must be .png, or none for a folder"),
        (".", "error: --out .: is a folder"),
        ("full", "error: --out full: holds files already"),
    ],
)
def test_the_out_path_is_looked_at_before_any_work(out, message, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept").touch()
    monkeypatch.setattr(dj, "load", lambda *args, **kwargs: pytest.fail("the run was loaded"))
    with pytest.raises(SystemExit) as stop:
        run(folder, "reconstruct", Path(out))
    assert str(stop.value.code).startswith(message)
