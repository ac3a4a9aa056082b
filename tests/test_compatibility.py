"""A run that version 0.1.0 wrote is loaded, samples and resumes as it did there.

tests/data/run_0_1_0.tar.xz is a run of 6 steps of a small U-Net. tests/data/expected_0_1_0.npz has images and
weights that the same version computed from it.
"""

import json
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest

import diffusion_jax as dj

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    parent = tmp_path_factory.mktemp("compatibility")
    with tarfile.open(DATA / "run_0_1_0.tar.xz") as archive:
        archive.extractall(parent, filter="data")
    return parent / "run_0_1_0"


@pytest.fixture(scope="module", autouse=True)
def one_device(devices):
    """Compiles sooner than for the eight emulated ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda: devices[:1])
        yield


@pytest.fixture(scope="module")
def run(workdir):
    return dj.load(workdir)


@pytest.fixture(scope="module")
def expected():
    with np.load(DATA / "expected_0_1_0.npz") as arrays:
        return dict(arrays)


def assert_close(found, expected):
    """Another CPU, and the suite's compiler options, round differently."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_it_is_loaded_with_all_of_its_settings(run, workdir):
    assert run.step == 6
    assert run.config == json.loads((workdir / "config.json").read_text())["config"]
    sampler, grid = dj.samplers.DPMSolverPP(order=2, eta=0.5), dj.grids.UniformLogSNR(last=0.01)
    guidance = dj.Guidance(1.5, interval=(0.1, 5.0), rescale=0.3)
    assert run.sampling == dj.Sampling(sampler, steps=4, grid=grid, guidance=guidance)
    model = dj.models.UNet(channels=(4,), blocks=1, attention=(), num_classes=10, groups=2, dropout=0.1)
    assert run.network == dj.Network(model, dj.schedules.Cosine(100), dj.predictions.V(), (8, 8, 1), 10)


def test_its_images_are_the_same(run, expected):
    key, labels = jax.random.key(3), [0, 3, 5, 9]
    ddim = dj.samplers.DDIM(eta=0.5)
    assert_close(run.sample(key, 4, labels=labels), expected["default"])
    assert_close(run.sample(key, 4, labels=labels, sampler=ddim, steps=3, guidance=2.0), expected["ddim"])
    assert_close(run.sample(key, 4, sampler=dj.samplers.Heun(), steps=3), expected["heun"])


@pytest.mark.slow
def test_it_resumes_to_the_same_weights(workdir, run, expected):
    """Stopped after step 8, which spares the evaluation and the samples at the end of a run."""
    config = run.config | {"train": run.config["train"] | {"steps": 100}}
    calls = iter([False, False, True])
    assert not dj.train(config, workdir, should_stop=lambda: next(calls))
    resumed = flatten(dj.load(workdir).params)
    assert_close(resumed, expected["resumed"])
    assert np.abs(resumed - flatten(run.params)).max() > 1e-4  # the two steps changed them


def flatten(params) -> np.ndarray:
    """All leaves, in the order of their paths."""
    leaves = sorted(jax.tree_util.tree_leaves_with_path(params), key=lambda leaf: jax.tree_util.keystr(leaf[0]))
    return np.concatenate([np.ravel(leaf) for _, leaf in leaves])
