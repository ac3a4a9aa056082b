"""Every config that ships can be built in every variant, on the data it names; the smallest ones train."""

import copy
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import prepared
import pytest
from PIL import Image

from diffusion_jax.config.defaults import with_defaults
from diffusion_jax.config.experiment import Experiment, as_plain, build_dataset

ROOT = Path(__file__).parent.parent
SHAPES = {
    "digits": ((8, 8, 1), 10),
    "mnist": ((28, 28, 1), 10),
    "mnist_small": ((28, 28, 1), 10),
    "cifar10": ((32, 32, 3), 10),
    "pokemon": ((64, 64, 3), 0),
    "folder": ((64, 64, 3), 0),
}
SMOKE = {"pokemon": ((32, 32, 3), 0), "folder": ((32, 32, 3), 0)}  # smaller images in the smoke variants
VARIANTS = [
    *[(name, "") for name in SHAPES],
    *[(name, "smoke") for name in SHAPES],
    ("mnist", "cpu"),
    ("pokemon", "cpu"),
]

every_variant = pytest.mark.parametrize(("name", "variant"), VARIANTS)


def config_of(name: str, variant: str = ""):
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant)


def shape_of(name: str, variant: str):
    return (SMOKE if variant == "smoke" else {}).get(name, SHAPES[name])


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory) -> str:
    """MNIST and CIFAR-10 as TFDS prepares them, with a few images of noise."""
    path = tmp_path_factory.mktemp("tfds")
    for name, version in (("mnist", "3.0.1"), ("cifar10", "3.0.2")):
        shape = SHAPES[name][0]
        splits = {"train": prepared.examples(40, shape, 0), "test": prepared.examples(20, shape, 1)}
        prepared.prepare(path, name, version, shape, splits)
    return str(path)


@pytest.fixture
def data_flags(tfds_dir, tmp_path):
    """Returns the fields that say where the data of a config are."""

    def place(config: dict) -> dict[str, str]:
        if config["data"]["name"] == "TFDS":
            return {"data_dir": tfds_dir}
        if config["data"]["name"] == "Folder":
            rng = np.random.default_rng(0)
            images = tmp_path / "images"
            images.mkdir()
            for i in range(40):
                Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).save(images / f"{i}.png")
            return {"path": str(images), "cache_dir": str(tmp_path / "cache")}
        return {}

    return place


def test_every_config_is_tested_here():
    assert {path.stem for path in (ROOT / "configs").glob("*.py")} == set(SHAPES)


@every_variant
def test_a_config_builds(name, variant):
    experiment = Experiment.from_config(config_of(name, variant), *shape_of(name, variant))
    assert experiment.plan.steps > 0
    assert experiment.lr_schedule(experiment.plan.steps // 2) > 0


@pytest.mark.parametrize("name", SHAPES)
def test_an_unknown_variant_is_refused(name):
    with pytest.raises(ValueError, match='variant "smok": must be .*"smoke", or left out'):
        config_of(name, "smok")


def test_the_variant_that_became_a_config_is_named():
    with pytest.raises(ValueError, match='variant "small": .*; use configs/mnist_small.py') as error:
        config_of("mnist", "small")
    assert "\n" not in str(error.value)


def fields(tree: dict, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of all fields, those of nested components and these themselves."""
    for key, value in tree.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from fields(value, (*path, key))


@pytest.mark.parametrize("name", SHAPES)
def test_no_config_states_a_default(name):
    config = as_plain(config_of(name))
    for *parents, field in fields(config):
        if field == "name" or not parents or (*parents, field) == ("model", "num_classes"):
            continue  # left out, the number of classes is that of the data
        without = copy.deepcopy(config)
        section = without
        for parent in parents:
            section = section[parent]
        del section[field]
        assert with_defaults(without) != with_defaults(config), (*parents, field)


@pytest.mark.parametrize(("name", "variant"), [v for v in VARIANTS if v[1] != "cpu"])
def test_the_data_of_a_config_suit_its_model(name, variant, data_flags):
    config = as_plain(config_of(name, variant))
    config["data"].update(data_flags(config))
    training, held_out = build_dataset(config).open()
    wanted = shape_of(name, variant)
    assert (training.image_shape, training.num_classes) == wanted
    for source in (training, held_out):
        image = source.rows[0]["image"]
        assert (image.dtype, image.shape) == (np.uint8, wanted[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_the_smoke_variant_trains_and_samples(name, tmp_path, data_flags):
    """As a user starts it: train.py in a process of its own, then its images."""
    flags = data_flags(as_plain(config_of(name)))
    command = [sys.executable, "train.py", "--config", f"configs/{name}.py:smoke"]
    command += [f"--config.data.{key}={value}" for key, value in flags.items()]
    workdir = tmp_path / "run"
    environment = os.environ | {"XLA_FLAGS": ""}
    done = subprocess.run(
        [*command, "--workdir", str(workdir)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    with Image.open(workdir / "samples.png") as image:
        assert min(image.size) > 200


def test_the_cifar10_network_has_the_size_of_the_paper():
    """35.7 M (Ho et al. 2020, App. B); unconditional, so no class embedding is in the count."""
    model = Experiment.from_config(config_of("cifar10"), *SHAPES["cifar10"]).network.model
    shapes = jax.eval_shape(lambda key: model.init(key, np.zeros((1, 32, 32, 3)), np.zeros(1), None), jax.random.key(0))
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == 35_746_307
