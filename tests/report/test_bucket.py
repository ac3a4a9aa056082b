"""A report of a run in a bucket, on a storage server on loopback."""

import re

import pytest
import storage_server
from run_files import make_run

from diffusion_jax.report import write_report
from diffusion_jax.report.record import read_run

pytestmark = pytest.mark.skipif(not storage_server.is_installed(), reason='pip install "diffusion_jax[test]"')


@pytest.fixture(scope="module")
def bucket():
    with storage_server.open_bucket() as runs:
        yield runs


def test_a_run_in_a_bucket_has_the_page_of_a_local_one(bucket, tmp_path):
    local = make_run(tmp_path / "run")
    for path in local.rglob("*"):
        if path.is_file():
            (bucket / "run" / path.relative_to(local)).write_bytes(path.read_bytes())
    here, there = read_run(str(local), 5), read_run("gs://bucket/runs/run", 5)
    assert (there.curves, there.sessions, there.grids) == (here.curves, here.sessions, here.grids)
    assert (there.settings, there.notes) == (here.settings, here.notes)
    with pytest.raises(ValueError, match=re.escape("workdir = gs://bucket/runs/no: does not exist")):
        write_report("gs://bucket/runs/no", tmp_path / "report.html")
