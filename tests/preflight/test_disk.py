import collections
import shutil

import jax
import numpy as np
import pytest
import tiny

from diffusion_jax.preflight.disk import Disk, measure_disk
from diffusion_jax.runtime.checkpoint import Checkpoints
from diffusion_jax.workdir.layout import abstract_state, checkpoint_items
from diffusion_jax.workdir.preparation import prepare


@pytest.fixture
def experiment():
    return prepare(tiny.config(tiny.AFFINE, keep_checkpoints=2)).experiment


def test_without_a_directory_only_the_need_is_known(experiment):
    disk = measure_disk(experiment, None)
    assert (disk.kept, disk.present, disk.free) == (2, 0, None)


@pytest.mark.parametrize("model", [tiny.AFFINE, {"name": "networks:Dense", "num_classes": 10}])
def test_a_checkpoint_is_as_large_as_said(model, tmp_path):
    """Once nearly all of it describes the arrays, and once the arrays are most of it."""
    experiment = prepare(tiny.config(model)).experiment
    rng, shapes = np.random.default_rng(0), abstract_state(experiment)
    # Zeros, as the first moments are, would be compressed to nothing.
    state = jax.tree.map(lambda x: jax.device_put(rng.normal(size=x.shape).astype(x.dtype), x.sharding), shapes)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(1, checkpoint_items(state), {})
    size = sum(path.stat().st_size for path in (tmp_path / "checkpoints" / "1").rglob("*") if path.is_file())
    assert 0.8 < size / measure_disk(experiment, None).checkpoint < 1.2


@pytest.mark.parametrize(("present", "more"), [(0, 4), (1, 3), (3, 1), (4, 0), (9, 0)])
def test_one_checkpoint_more_than_kept_is_needed_while_it_is_written(present, more):
    assert Disk(100, kept=3, present=present).needed == 100 * more


@pytest.mark.parametrize(("free", "fits"), [(299, False), (300, True), (None, True)])
def test_it_fits_if_as_much_is_free(free, fits):
    assert Disk(100, kept=2, free=free).fits is fits


def test_the_space_is_that_of_the_nearest_directory_that_exists(experiment, tmp_path, monkeypatch):
    usage, asked = collections.namedtuple("usage", "total used free"), []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or usage(100, 60, 40))
    disk = measure_disk(experiment, tmp_path / "new" / "run")
    assert disk.free == 40
    assert not disk.fits
    assert asked == [tmp_path]
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_refused(experiment, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot be written \(.*file is not a directory\); use another directory$"):
        measure_disk(experiment, tmp_path / "file" / "run")
