"""Every config that ships can be built, on the data it names where they are at hand."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

from diffusion_jax.experiment import Experiment, as_plain, open_dataset_section

ROOT = Path(__file__).parent.parent
TFDS = ROOT.parent / "shared" / "data" / "tfds"
SHAPES = {"digits": ((8, 8, 1), 10), "cifar10": ((32, 32, 3), 10)}


def config_of(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def test_every_config_is_tried_here():
    assert {path.stem for path in (ROOT / "configs").glob("*.py")} == set(SHAPES)


@pytest.mark.parametrize("name", SHAPES)
def test_a_config_builds(name):
    experiment = Experiment.from_config(config_of(name), *SHAPES[name])
    assert experiment.plan.steps > 0
    assert experiment.lr_schedule(experiment.plan.steps // 2) > 0


@pytest.mark.parametrize("name", SHAPES)
def test_a_config_s_data_are_what_its_model_wants(name):
    config = as_plain(config_of(name))
    if config["data"]["name"] == "TFDS":
        if not TFDS.exists():
            pytest.skip("../shared/data is not here")
        config["data"]["data_dir"] = str(TFDS)
    training, held_out = open_dataset_section(config).open()
    assert (training.image_shape, training.num_classes) == SHAPES[name]
    assert training.rows[0]["image"].dtype == held_out.rows[0]["image"].dtype == np.uint8


def test_the_cifar10_network_is_ho_et_al_s():
    """35.7 M (Ho et al. 2020, App. B); unconditional, so no class embedding is in the count."""
    model = Experiment.from_config(config_of("cifar10"), *SHAPES["cifar10"]).network.model
    shapes = jax.eval_shape(
        lambda key: model.init(key, np.zeros((1, 32, 32, 3)), np.zeros(1), None), jax.random.key(0)
    )
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == 35_746_307
