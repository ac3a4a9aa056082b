"""Runs in a bucket: the commands as they are typed, against a storage server on loopback."""

import contextlib
import gc
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import storage_server
import tiny
from checkpoints import assert_same_run
from cluster import TESTS, Cluster
from event_files import events
from prepared import one_line

import diffusion_jax as dj
from diffusion_jax.runtime import lease
from diffusion_jax.runtime.checkpoint import Checkpoints
from diffusion_jax.runtime.errors import CheckpointError
from diffusion_jax.runtime.files import lock_workdir, replace_file, replace_text
from diffusion_jax.runtime.place import complete_steps, move_tree, remove_remains, run_path, walk

pytestmark = [
    pytest.mark.skipif(not storage_server.is_installed(), reason='pip install "diffusion_jax[test]"'),
    # When Orbax meets damaged files it leaves coroutines that warn when they are collected.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine:RuntimeWarning"),
]

TRAIN = {"steps": 40, "log_every": 5, "eval_every": 20, "sample_every": 20, "eval_examples": 64}
CONFIG = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
import ml_collections, tiny
def get_config():
    return ml_collections.ConfigDict(tiny.config(tiny.AFFINE, **{TRAIN!r}))
"""


@pytest.fixture(scope="module", autouse=True)
def collected():
    """What Orbax leaves behind is collected here, not in the tests of another file."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def bucket():
    """gs://bucket/runs on a server of its own."""
    with storage_server.open_bucket() as runs:
        yield runs


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """The arguments of the command that trains in a directory."""
    config = tmp_path_factory.mktemp("config") / "config.py"
    config.write_text(CONFIG)
    return lambda workdir: ["train", f"--config={config}", f"--workdir={workdir}"]


def finish(logs: Path, *commands: list[str]) -> str:
    """Runs commands side by side; returns what they printed."""
    clusters = [Cluster(logs / f"{i}_{time.monotonic_ns()}", command, 1) for i, command in enumerate(commands)]
    with contextlib.ExitStack() as stack:
        for it in clusters:
            stack.enter_context(it)
        for it in clusters:
            assert it.wait(120) == [0], it.text()
    return "".join(log.read_text(errors="replace") for it in clusters for log in it.logs)


@pytest.fixture(scope="module")
def runs(bucket, train, tmp_path_factory):
    """A local run, and one in the bucket that was killed in the middle of a save and started again."""
    logs = tmp_path_factory.mktemp("logs")
    local, remote = logs / "local", bucket / "killed"
    with Cluster(logs / "local", train(local), 1) as straight, Cluster(logs / "killed", train(remote), 1) as it:
        while 10 not in complete_steps(remote / "checkpoints") or not (remote / "checkpoints" / "20").exists():
            assert it.children[0].poll() is None, it.text()
        it.signal(0, signal.SIGKILL)
        it.wait(20)
        assert (remote / ".lock").exists()
        assert complete_steps(remote / "checkpoints") == [10]
        assert "resuming after step 10" in finish(logs, train(remote))
        assert straight.wait(120) == [0], straight.text()
    return local, remote


@pytest.mark.slow
def test_a_run_that_is_killed_and_started_again_ends_with_the_bits_of_a_local_run(runs):
    local, remote = runs
    assert_same_run(local, remote)
    names = {path.name for path in remote.iterdir()}
    assert names == {"checkpoints", "config.json", "events", "metrics.jsonl", "samples", "samples.png"}
    for name in ("config.json", "samples.png", "samples/step_0000020.png"):
        assert (remote / name).read_bytes() == (local / name).read_bytes()
    assert complete_steps(remote / "checkpoints") == [20, 30, 40]
    assert len(list((remote / "checkpoints").iterdir())) == 3


@pytest.mark.slow
def test_tensorboard_files_are_in_the_bucket(runs):
    local, remote = runs
    found = {(tag, step) for tag, step, _ in events(remote)}
    assert found == {(tag, step) for tag, step, _ in events(local)}
    assert {("samples", 20), ("loss", 40)} <= found


@pytest.mark.slow
def test_samples_are_those_of_the_local_run(runs, tmp_path):
    outs = tmp_path / "local.png", tmp_path / "remote.png"
    options = ["--allow_code", "--num_samples=4", "--steps=4"]
    finish(
        tmp_path,
        *(["sample", f"--workdir={run}", f"--out={out}", *options] for run, out in zip(runs, outs, strict=True)),
    )
    assert outs[0].read_bytes() == outs[1].read_bytes()


@pytest.mark.slow
def test_a_damaged_object_is_noticed_and_the_step_before_is_used(runs, bucket, train, tmp_path, caplog):
    local, remote = runs
    for path in [path for path in walk(remote / "checkpoints" / "40" / "ema_params") if path.parent.name == "d"]:
        path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))
    assert dj.load(str(remote), allow_code=True).step == 30
    assert "checkpoint 40 is damaged" in caplog.text
    assert "resuming after step 30" in finish(tmp_path, train(remote))
    assert_same_run(local, remote)
    assert (remote / "checkpoints" / "damaged" / "40" / "ema_params" / "manifest.ocdbt").exists()
    assert dj.load(str(remote), allow_code=True).step == 40


# --- locks -----------------------------------------------------------------------------------

HOLD = """
import sys, time
from diffusion_jax.runtime.files import lock_workdir, replace_file, replace_text
from diffusion_jax.runtime.place import run_path
with lock_workdir(run_path("workdir", sys.argv[1])):
    print("held", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(lease, "_RENEW_SECONDS", 0.3)
    monkeypatch.setattr(lease, "_EXPIRE_SECONDS", 2)
    monkeypatch.setattr(lease, "_LOOK_SECONDS", 0.5)


def test_a_run_that_is_in_use_is_refused_and_free_afterwards(bucket, quick):
    with lock_workdir(bucket / "held") as check:
        time.sleep(lease._EXPIRE_SECONDS + 0.5)  # it is renewed
        with pytest.raises(OSError, match="is in use by another process; wait") as error:
            lock_workdir(bucket / "held").__enter__()
        one_line(error)
        check()
    assert not (bucket / "held" / ".lock").exists()
    with lock_workdir(bucket / "held") as check:
        check()


def test_the_lock_of_a_killed_process_of_this_machine_is_free_at_once(bucket):
    command = [sys.executable, "-c", HOLD, str(bucket / "mine")]
    with subprocess.Popen(command, cwd=TESTS.parent, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        process.send_signal(signal.SIGKILL)
        process.wait(20)
    start = time.monotonic()
    with lock_workdir(bucket / "mine"):
        assert time.monotonic() - start < lease._LOOK_SECONDS


def test_a_lock_that_is_not_renewed_expires_and_its_owner_is_told(bucket, quick):
    first = lease._Lease(bucket / "lost")
    assert first.take()
    first.check()
    with lock_workdir(bucket / "lost") as check:
        first.renew_until_released()
        with pytest.raises(OSError, match="another process has taken the run over") as error:
            first.check()
        one_line(error)
        first.remove()
        assert (bucket / "lost" / ".lock").exists()
        check()


def test_a_renewal_whose_answer_was_lost_is_no_loss(bucket, quick):
    first, same = lease._Lease(bucket / "answer"), lease._Lease(bucket / "answer")
    assert first.take()
    same._mine.metadata = first._mine.metadata
    assert same._write(first._mine.generation)
    threading.Timer(1, first.released.set).start()
    first.renew_until_released()
    first.check()


# --- refusals and remains ----------------------------------------------------------------------


def test_a_bucket_that_is_not_there_is_one_line(bucket):
    with pytest.raises(OSError, match="gs://no-such-bucket/run cannot be written .there is no such bucket") as error:
        dj.train(tiny.config(tiny.AFFINE), "gs://no-such-bucket/run")
    one_line(error)
    with pytest.raises(CheckpointError, match="no checkpoint in gs://bucket/empty; train first"):
        dj.load("gs://bucket/empty")


def test_without_gcsfs_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(
        ValueError, match=r'workdir = gs://b/run: needs gcsfs.*: pip install "diffusion_jax\[gcs\]"'
    ) as error:
        dj.load("gs://b/run")
    one_line(error)


def test_a_path_object_is_taken_although_it_has_lost_a_slash(bucket):
    assert str(run_path("workdir", Path("gs://bucket/run/"))) == "gs://bucket/run"


def test_a_half_written_checkpoint_is_not_listed_and_removed_at_the_start(bucket):
    directory = bucket / "half"
    for name in ("10/commit_success.txt", "10/ema/data", "20/ema/data", "damaged/30/ema/data"):
        (directory / name).write_text("x")
    assert complete_steps(directory) == [10]
    remove_remains(directory)
    assert {path.name for path in walk(directory)} == {"10", "commit_success.txt", "ema", "data", "damaged", "30"}


def test_checkpoints_that_were_moved_aside_stay_when_a_bucket_is_opened(bucket):
    """Orbax would take the directory of damaged checkpoints for remains of a save."""
    directory = bucket / "aside"
    (directory / "damaged" / "30" / "ema" / "data").write_text("x")
    with Checkpoints(directory) as checkpoints:
        assert checkpoints.steps() == []
    assert (directory / "damaged" / "30" / "ema" / "data").read_text() == "x"


def test_a_file_of_a_bucket_is_replaced_at_the_end_or_not_at_all(bucket):
    path = bucket / "replaced" / "config.json"
    replace_text(path, "first")
    with contextlib.suppress(ValueError), replace_file(path) as new:
        new.write_text("second")
        raise ValueError
    assert path.read_text() == "first"
    replace_text(path, "third")
    assert path.read_text() == "third"
    assert [each.name for each in walk(path.parent)] == ["config.json"]


def test_directories_are_moved_whole(bucket):
    (bucket / "from" / "a" / "b").write_bytes(b"1")
    (bucket / "from" / "c").write_bytes(b"")
    move_tree(bucket / "from", bucket / "to" / "20")
    assert not (bucket / "from").exists()
    assert (bucket / "to" / "20" / "a" / "b").read_bytes() == b"1"
    assert (bucket / "to" / "20" / "c").exists()
