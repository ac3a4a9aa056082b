"""diffusion-jax edit, called in this process."""

import re
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image
from slow import slow

import diffusion_jax as dj
from diffusion_jax.cli.main import main
from diffusion_jax.interop.run_directory import write_run

DIGIT = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
LABELS = {"labels": "3"}


def write(path: Path, pixels: np.ndarray) -> str:
    Image.fromarray(pixels).save(path)
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Runs of a grey and of a coloured network of three numbers, and images for them."""
    folder = tmp_path_factory.mktemp("edit")
    params = {"w": np.float32(0.1), "u": np.float32(0.2), "classes": np.linspace(-0.3, 0.3, 11, dtype="f4")}
    config = tiny.config({"name": "tiny:Numbered", "num_classes": 10})
    for name, channels in (("grey", 1), ("colour", 3)):
        write_run(folder / name, config, params, (8, 8, channels), "numbers of this test")
    write(folder / "a.png", DIGIT)
    write(folder / "b.png", DIGIT.T[::-1])
    write(folder / "small.png", DIGIT[:4, :4])
    write(folder / "wide.png", np.tile(DIGIT, (2, 3)))
    write(folder / "mask.png", np.where(np.arange(64).reshape(8, 8) < 24, 255, 0).astype(np.uint8))
    (folder / "broken.png").write_bytes(b"not an image")
    return folder


def edit(folder: Path, task: str, out: Path, workdir="grey", image="a.png", **flags) -> int:
    """The exit code of the command, with the names of images relative to `folder`."""
    values = {"workdir": folder / workdir, "out": out, "allow_code": True, "image": image} | flags
    for name in {"image", "mask"} & set(values):
        values[name] = ",".join(str(folder / part) if part else "" for part in values[name].split(","))
    return main(["edit", task, *(f"--{name}={value}" for name, value in values.items())])


@pytest.mark.parametrize(
    ("task", "flags", "rows", "columns"),
    [
        ("image_to_image", {"strength": 0.5, "image": "a.png,b.png"}, 2, 2),
        ("inpaint", {"mask": "mask.png", "image": "a.png,b.png", "sampler": "DDPM", "clip": True}, 2, 3),
        ("reconstruct", {"steps": 3, "table": True, **LABELS}, 1, 3),
        *slow(
            ("interpolate", {"steps": 1, "frames": 4, "image": "a.png,b.png"}, 1, 6),
            ("super_resolve", {"image": "small.png", "table": True, "noise_std": 0.1, "guidance": 2.0, **LABELS}, 1, 2),
            ("colorise", {"workdir": "colour", "table": True, "grid": "Leading"}, 1, 2),
        ),
    ],
)
def test_each_task_makes_a_table_of_inputs_and_outputs(task, flags, rows, columns, folder, tmp_path):
    assert edit(folder, task, tmp_path / "deep" / "x.png", **flags) == 0
    with Image.open(tmp_path / "deep" / "x.png") as image:
        assert image.height == 2 + 14 + rows * 98
        assert columns * 98 <= image.width <= columns * 98 + columns * 40


@pytest.mark.parametrize("scale", [1, 3])
def test_one_image_makes_one_image_of_its_size(scale, folder, tmp_path):
    sizes = {} if scale == 1 else {"scale": scale}
    assert edit(folder, "inpaint", tmp_path / "x.png", mask="mask.png", resamples=1, **sizes) == 0
    with Image.open(tmp_path / "x.png") as image:
        found = np.asarray(image)
    assert found.shape == (8 * scale, 8 * scale)
    known = np.asarray(Image.open(folder / "mask.png")) > 0
    np.testing.assert_array_equal(found[scale - 1 :: scale, scale - 1 :: scale][known], DIGIT[known])


@pytest.mark.parametrize(("invert", "colour"), [(False, "black"), (True, "white")])
def test_a_mask_that_repaints_nothing_is_refused(invert, colour, folder, tmp_path, capsys):
    """Such as white strokes on a transparent layer: transparent pixels are read as white."""
    write(folder / "plain.png", np.full((8, 8), 0 if invert else 255, np.uint8))
    assert edit(folder, "inpaint", tmp_path / "x.png", mask="plain.png", invert_mask=invert) == 1
    message = f"error: --mask: no pixel is {colour}, so that nothing is repainted"
    assert capsys.readouterr().err.startswith(message)
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize("invert", [False, True])
def test_a_directory_has_the_outputs_and_known_pixels_are_the_same_levels(folder, tmp_path, invert):
    flags = {"mask": "mask.png", "resamples": 1, "invert_mask": invert}
    assert edit(folder, "inpaint", tmp_path / "out", image="a.png,b.png", **flags) == 0
    outputs = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "out").iterdir())]
    known = (np.asarray(Image.open(folder / "mask.png")) > 0) != invert
    assert len(outputs) == 2
    for x, original in zip(outputs, (DIGIT, DIGIT.T[::-1]), strict=True):
        np.testing.assert_array_equal(x[known], original[known])
        assert (x[~known] != original[~known]).any()


def test_interpolation_writes_every_image_of_a_pair(folder, tmp_path):
    assert edit(folder, "interpolate", tmp_path / "out", image="a.png,b.png", frames=3, steps=30) == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["000000.png", "000001.png", "000002.png"]
    first, last = (np.asarray(Image.open(tmp_path / "out" / name), int) for name in (names[0], names[-1]))
    assert np.abs(first - DIGIT).mean() < 10
    assert np.abs(last - DIGIT.T[::-1]).mean() < 10


def test_an_image_depends_on_the_seed_and_not_on_the_others(folder, tmp_path):
    outputs = []
    for i, flags in enumerate(({"image": "a.png,b.png"}, {}, {"seed": 1})):
        assert edit(folder, "image_to_image", tmp_path / str(i), **flags) == 0
        outputs.append(np.asarray(Image.open(tmp_path / str(i) / "000000.png"), int))
    assert np.abs(outputs[0] - outputs[1]).max() <= 1
    assert np.abs(outputs[0] - outputs[2]).max() > 3


@pytest.mark.slow
def test_restored_images_are_clipped_unless_noclip(folder, tmp_path):
    def restored(**flags) -> bytes:
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.png"
        assert edit(folder, "super_resolve", out, image="small.png", labels="9", noise_std=0.1, **flags) == 0
        return out.read_bytes()

    assert restored() == restored(clip=True)
    assert restored() != restored(clip=False)


def test_reconstruct_prints_its_error(folder, tmp_path, capsys):
    assert edit(folder, "reconstruct", tmp_path / "x.png", steps=3) == 0
    line = r"reconstruct: 1 image\(s\) in, .* out; mean absolute error \d\.\d{4} on a scale where black is -1 and white"
    assert re.match(line, capsys.readouterr().out)


def test_restored_images_measure_as_the_input(folder, tmp_path):
    """After a few steps of this network they do not, without the projection at the end."""
    assert edit(folder, "super_resolve", tmp_path / "out", image="small.png", steps=2) == 0
    output = np.asarray(Image.open(tmp_path / "out" / "000000.png"), np.float64)
    np.testing.assert_allclose(output.reshape(4, 2, 4, 2).mean(axis=(1, 3)), DIGIT[:4, :4], atol=1)


@pytest.mark.parametrize(("task", "name"), [("reconstruct", "a.png"), ("inpaint", "mask.png")])
def test_an_input_is_not_overwritten(task, name, folder, capsys):
    before = (folder / name).read_bytes()
    mask = {"mask": "mask.png"} if task == "inpaint" else {}
    assert edit(folder, task, folder / "grey" / ".." / name, **mask) == 1
    assert re.match(f"error: --out=.*{name}: is one of the input images", capsys.readouterr().err)
    assert (folder / name).read_bytes() == before


@pytest.mark.parametrize(
    ("task", "flags", "message"),
    [
        ("reconstruct", {"image": "a.png,"}, "--image={folder}/a.png,: has a comma with no name"),
        ("sharpen", {}, 'diffusion-jax edit: "sharpen"; use one of image_to_image, inpaint'),
        ("reconstruct", {"workdir": "nowhere"}, "no checkpoint in"),
        ("reconstruct", {"image": ""}, "--image: required"),
        ("inpaint", {}, "--mask: required"),
        ("inpaint", {"mask": "mask.png,mask.png"}, "--mask: 2 masks for 1 images; give one mask"),
        ("inpaint", {"mask": "mask.png", "resamples": 0}, "resamples = 0: must be an integer >= 1"),
        ("reconstruct", {"image": "wide.png"}, "{folder}/wide.png is 24x16, not 8x8 pixels; resize it"),
        ("reconstruct", {"image": "broken.png"}, "{folder}/broken.png is not a PNG, JPEG, WebP, BMP"),
        ("reconstruct", {"image": "."}, "{folder} is a directory"),
        (
            "image_to_image",
            {"sampler": "mine:Own", "allow_code": False},
            '--sampler "mine:Own": must be a name of the library',
        ),
        ("reconstruct", {"image": "none.png"}, "{folder}/none.png does not exist"),
        ("super_resolve", {}, "{folder}/a.png is 8x8, not 4x4 pixels"),
        ("super_resolve", {"factor": 3}, "factor = 3: must divide height, width = (8, 8)"),
        ("super_resolve", {"noise_std": -1.0, "image": "small.png"}, "noise_std = -1.0"),
        ("colorise", {}, "colorise: this run generates images of 1 channel(s); use a run of colour images"),
        ("interpolate", {}, "--image: 1 images; give pairs"),
        ("interpolate", {"image": "a.png,b.png", "frames": 1}, "flag --frames=1"),
        ("image_to_image", {"strength": 1.5}, "strength = 1.5: must be in (0, 1]"),
        ("image_to_image", {"strength": 0.1}, "strength = 0.1: must be at least 0.25, the smallest time"),
        ("image_to_image", {"frames": 3}, "Unknown command line flag 'frames'"),
        ("reconstruct", {"sampler": "DDPM"}, "Unknown command line flag 'sampler'"),
        ("image_to_image", {"sampler": "DIMM"}, '--sampler.name = "DIMM"'),
        ("reconstruct", {"labels": "3,8"}, "--labels=3,8: 2 classes for 1 images; leave some out"),
        ("reconstruct", {"seed": 2**32}, "flag --seed=4294967296"),
        ("reconstruct", {"labels": "12"}, "--labels=12: must be a number from 0 to 9"),
        ("reconstruct", {"labels": "three"}, "--labels=three: must be a number from 0 to 9"),
        ("reconstruct", {"guidance": 2.0}, "guidance = 2.0: needs labels"),
        ("reconstruct", {"steps": 101}, "steps = 101: must be at most 100"),
        ("reconstruct", {"steps": 0}, "flag --steps=0"),
        ("reconstruct", {"steps": "few"}, "flag --steps=few"),
        ("reconstruct", {"colour": "red"}, "Unknown command line flag 'colour'"),
    ],
)
def test_bad_input_ends_with_one_line(task, flags, message, folder, tmp_path, capsys):
    assert edit(folder, task, tmp_path / "x.png", **flags) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: {message}".format(folder=folder))
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("x.gif", "--out=x.gif: the ending must be .png, or nothing for a directory"),
        (".", "--out=.: is a directory"),
        ("full", "--out=full: the directory must be empty"),
    ],
)
def test_the_out_path_is_checked_before_any_work(out, message, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept").touch()
    monkeypatch.setattr(dj, "load", lambda *args, **kwargs: pytest.fail("the run was loaded"))
    assert edit(folder, "reconstruct", Path(out)) == 1
    assert capsys.readouterr().err.startswith(f"error: {message}")
