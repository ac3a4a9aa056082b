"""Several processes: the same training as in one, the same images, and faults of one that end all."""

import json
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from checkpoints import assert_same_run, read_checkpoint
from cluster import Cluster

import diffusion_jax as dj
from diffusion_jax.runtime import processes

CONFIG = """
import sys
sys.path.insert(0, {tests!r})
import ml_collections, tiny
def get_config():
    return ml_collections.ConfigDict(tiny.config(tiny.AFFINE, **{train!r}))
"""
TRAIN = {"steps": 24, "log_every": 4, "eval_every": 12, "checkpoint_every": 8, "sample_every": 12, "eval_examples": 40}


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("configs") / "tiny_config.py"
    path.write_text(CONFIG.format(tests=str(Path(__file__).parent), train=TRAIN))
    return path


def train(config, run, *flags):
    return ["train", f"--config={config}", f"--workdir={run}", *flags]


@pytest.fixture(scope="module")
def straight(config, tmp_path_factory) -> Path:
    """A run of two processes, to its end."""
    workdir = tmp_path_factory.mktemp("straight")
    with Cluster(workdir / "logs", train(config, workdir / "run"), 2) as cluster:
        assert cluster.wait(200) == [0, 0], cluster.text()
        assert "done; samples are in" in cluster.text(0)
        assert "done" not in cluster.text(1)
    return workdir / "run"


def wait_until(found: Callable[[], bool], timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def read_metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_losses_are_those_of_one_process(straight, tmp_path, devices):
    assert dj.train(tiny.config(tiny.AFFINE, **TRAIN), tmp_path)
    ours, theirs = read_metrics(straight), read_metrics(tmp_path)
    assert [line.keys() for line in ours] == [line.keys() for line in theirs]  # each line once, by process 0
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose([*one.values()], [*other.values()], rtol=1e-6)


@pytest.mark.slow
def test_one_is_killed_and_the_same_command_ends_with_the_same_bits(straight, config, tmp_path):
    command = train(config, tmp_path / "run", "--config.train.steps=24")
    with Cluster(tmp_path / "killed", [*command, "--config.train.log_every=1"], 2) as cluster:
        cluster.wait_for_file(tmp_path / "run" / "checkpoints" / "8")
        cluster.signal(1, signal.SIGKILL)
        start = time.monotonic()
        codes = cluster.wait(60)
        assert time.monotonic() - start < 20
        assert 0 not in codes
    (tmp_path / "run" / "metrics.jsonl").write_text(
        "".join(json.dumps(x) + "\n" for x in read_metrics(straight) if x["step"] <= 24)
    )
    with Cluster(tmp_path / "resumed", command, 2) as cluster:
        assert cluster.wait(200) == [0, 0], cluster.text()
    assert_same_run(straight, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("as_file", [False, True])
def test_two_start_from_the_weights_of_another_run_and_go_on_with_a_change(as_file, straight, config, tmp_path):
    source = straight
    if as_file:
        source = tmp_path / "weights.safetensors"
        dj.export(dj.load(straight, allow_code=True), source)
    still = ["--config.optimizer.lr_schedule=constant_schedule(value=0.0)", "--config.optimizer.weight_decay=0"]
    command = train(config, tmp_path / "run", f"--config.train.init_from={source}", *still, "--config.train.steps=8")
    with Cluster(tmp_path / "started", command, 2) as cluster:
        assert cluster.wait(200) == [0, 0], cluster.text()
    found, expected = (dj.load(run, allow_code=True).params for run in (tmp_path / "run", straight))
    assert jax.tree.all(jax.tree.map(np.array_equal, found, expected))
    changed = [*command[:-1], "--config.train.steps=12", "--config.train.batch_size=32", "--accept=train.batch_size"]
    with Cluster(tmp_path / "changed", changed, 2) as cluster:
        assert cluster.wait(200) == [0, 0], cluster.text()
    change = {"step": 8, "field": "train.batch_size", "before": 16, "after": 32}
    assert json.loads((tmp_path / "run" / "config.json").read_text())["changes"] == [change]


@pytest.mark.slow
def test_the_images_are_those_of_one_process(straight, tmp_path):
    out = tmp_path / "images.npz"
    flags = ["--allow_code", "--num_samples=7", "--steps=3", "--seed=5", f"--out={out}"]
    with Cluster(tmp_path / "logs", ["sample", f"--workdir={straight}", *flags], 2) as cluster:
        assert cluster.wait(200) == [0, 0], cluster.text()
    run = dj.load(straight, allow_code=True)
    with np.load(out) as archive:
        x = run.sample(jax.random.key(5), 7, labels=archive["label"], steps=3)
        np.testing.assert_array_equal(archive["image"], dj.pixels.to_uint8(x))


def test_one_process_goes_on_where_two_stopped(straight, tmp_path, devices):
    more = tiny.config(tiny.AFFINE, **TRAIN | {"steps": 28})
    assert dj.train(more, straight)
    assert read_checkpoint(straight)[0] == 28
    assert [x["step"] for x in read_metrics(straight) if "loss" in x] == [4, 8, 12, 16, 20, 24, 28]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("process", [0, 1])
def test_a_signal_to_one_stops_all_at_the_same_step(config, tmp_path, process, number):
    flags = ["--config.train.steps=100000", "--config.train.checkpoint_every=0", "--config.train.eval_every=0"]
    with Cluster(tmp_path / "logs", train(config, tmp_path / "run", *flags), 2) as cluster:
        cluster.wait_for_file(tmp_path / "run" / "metrics.jsonl")
        cluster.signal(process, number)
        start = time.monotonic()
        assert cluster.wait(60) == [128 + number] * 2
        assert time.monotonic() - start < 20
        (step,) = re.findall(r"stopped after step (\d+); run the same command to resume", cluster.text())
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.isdigit()] == [step]


@pytest.mark.slow
@pytest.mark.parametrize("signalled", [(0,), (1,), (0, 1)], ids=str)
def test_a_signal_does_not_wait_for_a_compile(config, tmp_path, signalled):
    flags = ["--config.model.name=tiny:SlowToCompile"]  # takes two minutes
    with Cluster(tmp_path / "logs", train(config, tmp_path / "run", *flags), 2) as cluster:
        for log in cluster.logs:
            wait_until(lambda log=log: "compiling" in log.read_text())
        for process in signalled:
            cluster.signal(process, signal.SIGTERM)
        start = time.monotonic()
        codes = cluster.wait(60)
        assert time.monotonic() - start < 20
        assert 0 not in codes
        assert all(codes[process] == 128 + signal.SIGTERM for process in signalled)
        assert "SIGTERM: this process stops, which ends the others" in cluster.text(signalled[0])


@pytest.mark.slow
@pytest.mark.parametrize("process", [0, 1])
def test_an_error_in_one_ends_all_and_its_log_has_the_cause(config, tmp_path, process):
    flags = [f"--config.data.name=tiny:FailsIn{process}", "--config.train.steps=100000"]
    with Cluster(tmp_path / "logs", train(config, tmp_path / "run", *flags), 2) as cluster:
        codes = cluster.wait(120)
        assert 0 not in codes
        assert codes[process] == 1
        assert "cannot be read from this host" in cluster.text(process)


# Which processes there are


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("host:1", 2, None), "process_id: required, because coordinator_address is given"),
        ((None, 2, 0), "coordinator_address: required, because num_processes is given"),
        (("host", 2, 0), "coordinator_address = host: must be host:port"),
        (("http://127.0.0.1:1234", 2, 0), "coordinator_address = http://127.0.0.1:1234: must be host:port"),
        (("127.0.0.1:0", 2, 0), "coordinator_address = 127.0.0.1:0: must be host:port"),
        (("127.0.0.1:99999", 2, 0), "coordinator_address = 127.0.0.1:99999: must be host:port"),
        (("192.0.2.1:1234", 2, 0), "must be an address and a free port of the host of process 0"),
        (("nohost.invalid:1234", 2, 0), "must be an address and a free port of the host of process 0"),
        (("nohost.invalid:1234", 2, 1), "coordinator_address = nohost.invalid:1234: must lead to a host"),
        (("host:1", 0, 0), "num_processes = 0: must be an integer >= 1"),
        (("host:1", 2, 2), "process_id = 2: must be an integer from 0 to 1"),
        (("host:1", 2, -1), "process_id = -1: must be an integer from 0 to 1"),
    ],
)
def test_processes_that_do_not_fit_together_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        processes.initialize(*arguments)


def test_the_coordinator_may_listen_on_another_address(monkeypatch):
    """Behind a NAT the address that leads to process 0 is none of its own."""
    arguments = {"coordinator_address": "192.0.2.1:1234", "num_processes": 2, "process_id": 0}
    with pytest.raises(ValueError, match="must be an address and a free port of the host of process 0"):
        processes._check(arguments)
    monkeypatch.setenv("JAX_COORDINATOR_BIND_ADDRESS", "127.0.0.1:1234")
    processes._check(arguments)


LAUNCHERS = {
    "slurm": {
        "SLURM_JOB_ID": "4711",
        "SLURM_STEP_NODELIST": "node[01-02]",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": "1",
        "SLURM_LOCALID": "0",
    },
    "mpi": {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "PMIX_NAMESPACE": "job-1"},
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_launcher_that_started_several_is_noticed(launcher, monkeypatch):
    asked = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **arguments: asked.append(arguments))
    for name, value in LAUNCHERS[launcher].items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("JAX_COORDINATOR_PORT", "0")
    monkeypatch.delenv("JAX_COORDINATOR_PORT")
    processes.initialize()
    (arguments,) = asked
    assert arguments["heartbeat_timeout_seconds"] <= 10
    assert arguments["shutdown_timeout_seconds"] <= 10
    # The coordinator listens on one address, unless the name of the host leads nowhere.
    bind = arguments["coordinator_bind_address"]
    assert bind is None or not bind.startswith(("[::]", "0.0.0.0"))


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_one_task_alone_is_not_several(launcher, monkeypatch):
    """On several GPUs a single task would otherwise be left with one of them."""
    monkeypatch.setattr(jax.distributed, "initialize", lambda **arguments: pytest.fail("joined others"))
    for name, value in LAUNCHERS[launcher].items():
        monkeypatch.setenv(name, "1" if value == "2" else value)
    assert not processes.initialize()
