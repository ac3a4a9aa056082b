import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import diffusion_jax as dj
from diffusion_jax.edit.job import Job
from diffusion_jax.run import Network, Run, Sampling
from diffusion_jax.runtime.mesh import MeshShape, make_mesh


@pytest.fixture(scope="module")
def run(devices) -> Run:
    network = Network(tiny.Affine(), dj.schedules.Cosine(100), dj.predictions.V(), (8, 8, 1), 10)
    params = {"w": np.float32(0.1), "u": np.float32(0.2), "classes": jnp.linspace(-0.3, 0.3, 11)}
    settings = Sampling(dj.samplers.DDIM(), steps=4, guidance=1.5)
    return Run(network, params, settings, make_mesh(MeshShape(), devices[:1]))


def test_sampling_with_a_job_is_sampling_with_its_run(run):
    """dj.sample with the job's denoiser and settings makes the images of run.sample, guidance included."""
    labels, key = np.array([1, 2, 3]), jax.random.key(0)
    settings = {"labels": labels, "guidance": 3.0, "clip": False}
    job = Job(run, key, [], **settings)
    x = dj.sample(key, job.denoiser(3), run.schedule, (3, 8, 8, 1), **job.sampling())
    assert np.abs(x).max() > 1.01  # clipping would be seen
    np.testing.assert_allclose(np.clip(x, -1, 1), run.sample(key, 3, **settings), rtol=0, atol=1e-5)


def test_a_setting_of_none_is_the_run_s_own(run):
    job, key = Job(run, jax.random.key(0), []), jax.random.key(0)
    assert job.sampling() == {"sampler": dj.samplers.DDIM(), "steps": 4, "grid": dj.grids.Uniform()}
    assert job.there_and_back() == {"steps": 100, "grid": dj.grids.Uniform()}
    other = Job(run, key, [], steps=7, sampler=dj.samplers.Heun(), grid=dj.grids.Karras())
    assert other.sampling() == {"sampler": dj.samplers.Heun(), "steps": 7, "grid": dj.grids.Karras()}
    assert other.there_and_back() == {"steps": 7, "grid": dj.grids.Karras()}
