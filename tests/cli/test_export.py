"""diffusion-jax export, and the networks that come with the library."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.svm import SVC
from slow import slow

import diffusion_jax as dj
from diffusion_jax.cli.main import main
from diffusion_jax.interop.run_directory import write_run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "mine.safetensors"
    assert main(["export", "--pretrained=digits", f"--out={path}"]) == 0
    return path


def test_an_exported_file_samples_as_its_run(exported, tmp_path):
    flags = ["--num_samples=2", "--labels=3", "--steps=2"]
    assert main(["sample", "--pretrained=digits", f"--out={tmp_path}/a.npz", *flags]) == 0
    assert main(["sample", f"--workdir={exported}", f"--out={tmp_path}/b.npz", *flags]) == 0
    a, b = (np.load(tmp_path / name, allow_pickle=False)["image"] for name in ("a.npz", "b.npz"))
    np.testing.assert_array_equal(a, b)
    assert a.dtype == np.uint8


def test_a_network_that_leaves_the_classes_of_its_data_out_is_exported(tmp_path):
    config = tiny.config({"name": "tiny:AnyClasses"}) | {"sampler": {"name": "DDIM", "steps": 2}}
    params = {"w": np.float32(0.1), "u": np.float32(0.2), "classes": np.zeros(11, np.float32)}
    write_run(tmp_path / "run", config, params, (8, 8, 1), "numbers of this test")
    run = dataclasses.replace(dj.load(tmp_path / "run", allow_code=True), class_names=("cat", "dog"))
    dj.export(run, tmp_path / "x.safetensors")
    assert dj.load(tmp_path / "x.safetensors", allow_code=True).class_names == ()


def test_a_sampler_is_written_with_what_the_flags_say(tmp_path, capsys):
    pytest.importorskip("flatbuffers", reason='pip install -e ".[export]"')
    out = tmp_path / "new" / "x.bin"
    flags = ["--steps=2,3", "--labels=#3", "--seed=7", "--num_samples=2", "--platforms=cpu", "--sampler=DDIM(eta=0.5)"]
    assert main(["export", "--pretrained=digits", f"--out={out}", "--guidance=2", "--clip", *flags]) == 0
    assert f"step 600 in {out}" in capsys.readouterr().out
    with np.load(out, allow_pickle=False) as file:
        about = json.loads(str(file["description"]))
        assert {name for name in file.files if name.startswith("program/")} == {"program/2", "program/3"}
        sizes = sorted(file[f"stored/{i}"].size for i in range(about["stored"]))
    assert sizes == sorted([1, 1, 1, 1, *(x.size for x in jax.tree.leaves(dj.pretrained("digits").params))])
    expected = {"seed": 7, "labels": 3, "guidance": 2.0, "sampler": "DDIM(eta=0.5)", "clip": True}
    assert {name: about["constants"][name] for name in expected} == expected
    assert (about["steps"], about["platforms"], [*about["inputs"]]) == ([2, 3], ["cpu"], ["indices"])
    assert about["output"]["shape"] == [2, 8, 8, 1]


def test_floats_are_written_on_request(exported, tmp_path):
    flags = [f"--workdir={exported}", "--num_samples=2", "--steps=2", f"--out={tmp_path}/x.npz"]
    assert main(["sample", *flags, "--float"]) == 0
    x = np.load(tmp_path / "x.npz", allow_pickle=False)["image"]
    assert x.dtype == np.float32
    assert main(["sample", *flags]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "x.npz", allow_pickle=False)["image"], dj.pixels.to_uint8(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample"], "--workdir: required, or --pretrained, such as"),
        (["sample", "--workdir=x", "--pretrained=digits"], "--pretrained=digits: replaces --workdir"),
        (["sample", "--pretrained=dogs"], 'pretrained = "dogs": must be one of "digits", "mnist"'),
        (["edit", "reconstruct", "--image=a.png"], "--workdir: required, or --pretrained, such as"),
        (["export", "--pretrained=digits", "--out=x.npz"], "--out=x.npz: the ending must be .safetensors"),
        (
            ["export", "--pretrained=digits", "--steps=5"],
            "--steps: does not apply to network.safetensors; leave it out",
        ),
        (["export", "--pretrained=digits", "--labels=3", "--out=x.safetensors"], "--labels: does not apply to x.safe"),
        (["export", "--pretrained=digits", "--out=x.bin", "--steps=5,x"], "--steps=5,x: must be integers, such as"),
        (["export", "--pretrained=digits", "--out=x.bin", "--labels=3,5"], "--labels=3,5: must be one class; leave it"),
        (["export", "--pretrained=digits", "--out=x.bin", "--inputs=steps"], "inputs = 'steps': must be some of"),
        (["export", "--pretrained=digits", "--out=x.bin", "--seed=-1"], "seed"),
        (["export", "--pretrained=digits", "--out=x.bin", "--platforms=rocm"], "must be some of cpu, cuda, tpu"),
        (["export", "--workdir=nowhere"], "no checkpoint in nowhere"),
        (["sample", "--workdir=nowhere.safetensors"], "there is no file nowhere.safetensors; export a run first"),
        (["sample", "--pretrained=digits", "--scale=0"], "scale"),
        (["sample", "--pretrained=digits", "--scale=257"], "scale"),
        (["sample", "--pretrained=digits", "--scale=2", "--out=x.npz"], "--scale: does not apply to x.npz"),
        (["sample", "--pretrained=digits", "--float", "--out=x.png"], "--float"),
    ],
)
def test_wrong_flags_are_refused_in_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) != 0
    error = capsys.readouterr().err.strip()
    assert message in error
    assert error.count("\n") == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("scale", [None, 3])
def test_small_images_are_enlarged(scale, exported, tmp_path):
    flags = [] if scale is None else [f"--scale={scale}"]
    out = tmp_path / "x.png"
    assert main(["sample", f"--workdir={exported}", "--num_samples=1", "--steps=2", f"--out={out}", *flags]) == 0
    with Image.open(out) as image:
        assert image.width == 2 + (scale or 12) * 8 + 2


def shrink(x, margins):
    """Images [N, H, W, 1] in [-1, 1] without these margins, as the digits of scikit-learn: [N, 64] from 0 to 16."""
    top, bottom, left, right = margins
    pixels = dj.pixels.to_uint8(x)[:, top : x.shape[1] - bottom, left : x.shape[2] - right, 0]
    small = [Image.fromarray(image).resize((8, 8), Image.Resampling.BOX) for image in pixels]
    return np.stack([np.asarray(image, float).ravel() / 255 * 16 for image in small])


# Real images of MNIST, shrunk so, are recognised to 51%; digits of scikit-learn that it has not seen, to 98%.
@pytest.mark.parametrize(
    ("name", "margins", "recognised"),
    slow(("digits", (0, 0, 0, 0), 0.97), ("mnist", (4, 4, 2, 2), 0.4)),
)
def test_a_pretrained_network_draws_what_is_asked_for(name, margins, recognised):
    """The classifier of benchmarks/digits_quality.py, which has not seen these images."""
    digits = load_digits()
    judge = SVC(gamma=0.001).fit(digits.data, digits.target)
    labels = np.arange(200) % 10
    x = dj.pretrained(name).sample(jax.random.key(7), 200, labels=labels)
    assert (judge.predict(shrink(x, margins)) == labels).mean() >= recognised


def test_the_networks_that_come_along_are_those_of_the_page_and_small():
    page = (ROOT / "docs" / "pretrained.md").read_text()
    licence = (ROOT / "diffusion_jax" / "weights" / "README.md").read_text()
    assert dj.pretrained_names() == ["digits", "mnist"]
    assert sum(path.stat().st_size for path in (ROOT / "diffusion_jax" / "weights").iterdir()) < 6e6
    for name in dj.pretrained_names():
        run = dj.pretrained(name)
        count = f"{sum(leaf.size for leaf in jax.tree.leaves(run.params)):,}".replace(",", " ")
        height, width, _ = run.network.image_shape
        assert f"| `{name}` | {height}x{width}, grey, 10 classes | {count}, 2.8 MB |" in page
        assert f"| `{name}` | `UNet`, {count} parameters" in licence
