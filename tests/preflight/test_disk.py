import collections
import shutil

import pytest
import tiny

from diffusion_jax.preflight.disk import Disk, measure_disk
from diffusion_jax.workdir.preparation import prepare

# Affine has 13 numbers, in 4 copies: parameters, average, two moments. And 32 bits each: the counts of the step, of
# skipped batches, and of adamw (one for the moments, one for the learning rate's schedule if it has one).
COPIES = 4 * 13 * 4


@pytest.fixture
def experiment():
    return prepare(tiny.config(tiny.AFFINE, keep_checkpoints=2)).experiment


def test_a_checkpoint_holds_the_state_once(experiment):
    disk = measure_disk(experiment, None)
    assert 0 < disk.checkpoint - COPIES <= 4 * 4
    assert (disk.kept, disk.present, disk.free) == (2, 0, None)


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
