"""Finished runs that the tests of this directory share; those that change one take a copy."""

from pathlib import Path

import jax
import pytest
import tiny

import diffusion_jax as dj


@pytest.fixture(scope="package", autouse=True)
def cached_programs():
    """Each training compiles the same programs again; here they are kept however fast they compile."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = jax.config.values[name]
    jax.config.update(name, 0.0)
    yield
    jax.config.update(name, before)


@pytest.fixture(scope="package")
def straight(tmp_path_factory) -> Path:
    """A run of `tiny.Affine`, 60 steps without a stop."""
    workdir = tmp_path_factory.mktemp("straight")
    assert dj.train(tiny.config(tiny.AFFINE), workdir)
    return workdir
