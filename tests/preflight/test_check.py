"""A preflight of small runs, beside what training does and what can be counted by hand."""

import copy
import dataclasses
import math
import os
import shutil
import signal
import sys
import threading
from pathlib import Path

import jax
import pytest
import tiny

import diffusion_jax as dj
from diffusion_jax.preflight import check_run, check_slice
from diffusion_jax.preflight.check import _listen, _vary_mesh
from diffusion_jax.preflight.programs import count_flops
from diffusion_jax.preflight.speed import Speed
from diffusion_jax.runtime.errors import RunError
from diffusion_jax.workdir.layout import abstract_state, init_state
from diffusion_jax.workdir.preparation import prepare
from diffusion_jax.workdir.program import iterate_batches

ROWS = 32 * (8 * 8 + 4)  # bytes of a batch: uint8 images and int32 labels
KEY = 8


def dense(mesh=None, width=128, **train) -> dict:
    """Digits, and a network of 2 * 64 * width parameters without classes."""
    config = tiny.config({"name": "networks:Dense", "width": width}, **{"batch_size": 32, **train})
    config["loss"]["label_drop"] = 0.0
    config["sampler"]["guidance"] = 1.0
    return config | {"mesh": mesh or {}}


def list_files(directory: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in directory.rglob("*")}


@pytest.fixture(scope="module")
def fsdp(tmp_path_factory):
    """The findings of a new run on 2 x 4 devices, with three timed steps; its directory was not made."""
    workdir = tmp_path_factory.mktemp("preflight") / "new"
    findings = check_run(dense({"data": 2, "fsdp": 4}), workdir, timed_steps=3)
    assert not workdir.exists()
    return findings


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("preflight_run") / "run"
    assert dj.train(dense(steps=20), workdir)
    return workdir


def test_what_a_run_is(fsdp):
    run = fsdp.run
    assert (run.network, run.parameters, run.start, run.steps) == ("Dense", 2 * 64 * 128, 0, 60)
    assert (run.training, run.held_out, run.num_devices) == (1617, 180, 8)
    assert fsdp.inputs.images == sum(fsdp.inputs.labels) == 1617
    assert len(fsdp.speed.intervals) == 3
    assert fsdp.seconds_left == pytest.approx(60 * fsdp.speed.seconds)
    assert fsdp.fits
    assert fsdp.find_warnings() == []


def test_the_compilers_arguments_are_the_state_and_the_batch(fsdp):
    step, sampler = fsdp.programs
    (shards,) = fsdp.shards
    assert step.memory.arguments == shards.total.size_per_device + ROWS // 8 + KEY
    assert step.memory.temporaries > 0
    assert 0 < step.memory.output < 1000  # the metrics; the new state takes the place of the old one
    ema = next(part for part in shards.parts if part.name == "ema_params")
    assert ema.size_per_device == 2 * 64 * 128 * 4 // 4
    assert sampler.memory.arguments > ema.size_per_device


def test_calls_of_several_steps_and_images_on_the_devices_count():
    """The batches of a call, the number of its steps, and 1617 images of 64 bytes with labels of 4."""
    every = {"log_every": 7, "eval_every": 0, "checkpoint_every": 0}
    findings = check_run(dense({"data": 2, "fsdp": 4}, steps_per_call=3, data_on_device=True, **every), timed_steps=5)
    (shards,), (step, _) = findings.shards, findings.programs
    assert step.memory.arguments == shards.total.size_per_device + 3 * ROWS // 8 + KEY + 4 + 1617 * 68
    assert len(findings.speed.intervals) == 3 + 1  # a call before the log point is shorter
    assert findings.speed.causes == ()


def test_the_sharding_table_is_that_of_the_arrays(fsdp):
    experiment, *_ = prepare(dense({"data": 2, "fsdp": 4}))
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(experiment))
    state = init_state(jax.random.key(0), experiment, shardings)
    leaves = jax.tree.leaves(state)
    listed = fsdp.shards[0].leaves
    assert [leaf.size_per_device for leaf in listed] == [leaf.addressable_shards[0].data.nbytes for leaf in leaves]
    assert [leaf.size for leaf in listed] == [leaf.nbytes for leaf in leaves]
    assert [leaf.split for leaf in listed if leaf.name in ("params/w1", "params/w2")] == [("", "fsdp"), ("fsdp", "")]
    assert fsdp.shards[0].total.arrays == len(leaves)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_operations_of_a_step(accumulate):
    experiment, training, _ = prepare(dense({"data": -1}, width=4096, batch_size=1024, accumulate=accumulate))
    # Forward two products, backward two for the weights and one for the first layer's output; the optimizer is 1%.
    assert count_flops(experiment, training) == pytest.approx(5 * 2 * 1024 * 64 * 4096, rel=0.02)


def test_a_resumed_run_counts_the_steps_that_are_left_and_stays_as_it_is(trained, monkeypatch):
    before, starts = list_files(trained), []

    def note(experiment, training, start):
        starts.append(start)
        return iterate_batches(experiment, training, start)

    monkeypatch.setattr("diffusion_jax.preflight.check.iterate_batches", note)
    findings = check_run(dense(steps=50), trained, timed_steps=2)
    assert (findings.run.start, findings.run.steps) == (20, 50)
    assert findings.seconds_left == pytest.approx(30 * findings.speed.seconds)
    assert findings.disk.present == 2  # of steps 10 and 20
    assert starts == [20]
    assert list_files(trained) == before


def changed(section, **fields):
    config = dense(steps=20)
    return config | {section: config[section] | fields}


@pytest.mark.parametrize(
    "config",
    [
        changed("train", steps=10),
        changed("train", ema_decay=0.5),
        changed("train", batch_size=30),
        changed("train", batch_size=4096),
        changed("train", stpes=5),
        changed("train", init_from="nowhere"),
        changed("mesh", data=16),
        changed("mesh", fsdp=3),
        changed("data", name="NPZ", path="missing.npz"),
        changed("optimizer", name="adamm"),
        changed("model", width=64),
    ],
)
def test_what_training_refuses_is_refused_in_the_same_words(config, trained, tmp_path):
    workdir = trained if "nowhere" not in str(config) else tmp_path / "new"
    messages = []
    for start in (dj.train, check_run):
        with pytest.raises(ValueError) as error:  # noqa: PT011 the two messages are compared
            start(copy.deepcopy(config), workdir)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_accept_is_that_of_training(trained):
    config = changed("train", ema_decay=0.5)
    assert check_run(config, trained, accept=["train.ema_decay"], timed_steps=0).run.start == 20
    with pytest.raises(ValueError, match="accept = train.ema_decay: needs a run to go on with"):
        check_run(config, accept=["train.ema_decay"])


def test_a_damaged_config_is_read_from_the_checkpoint_and_stays(trained, tmp_path):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    (run / "config.json").write_text("{")
    assert check_run(dense(steps=20), run, timed_steps=0).run.start == 20
    assert (run / "config.json").read_text() == "{"


def test_a_program_that_is_too_large_is_not_run(fsdp, monkeypatch):
    monkeypatch.setattr("diffusion_jax.preflight.check.find_capacity", lambda mesh: 1000)
    monkeypatch.setattr("diffusion_jax.preflight.check.init_state", None)
    findings = check_run(dense({"data": 2, "fsdp": 4}))
    assert not findings.fits
    assert findings.speed is None
    assert any(text.startswith("memory: it does not fit; see docs/") for text in findings.find_warnings())


def test_a_device_that_runs_out_of_memory_is_reported(monkeypatch):
    def run_out(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")

    monkeypatch.setattr("diffusion_jax.preflight.check.time_steps", run_out)
    findings = check_run(dense({"data": 2, "fsdp": 4}))
    assert not findings.fits
    assert "memory: it does not fit (RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.)" in str(
        findings.find_warnings()
    )


def test_another_mesh_that_fits_is_named(fsdp):
    large = dataclasses.replace(fsdp.programs[0].memory, temporaries=10**12)
    other = dataclasses.replace(fsdp.programs[0], mesh={"data": 1, "fsdp": 8})
    own = dataclasses.replace(fsdp.programs[0], memory=large)
    findings = dataclasses.replace(fsdp, programs=(own, other))
    assert findings.find_warnings() == [
        "memory: it does not fit on the mesh of the config; --config.mesh.data=1 --config.mesh.fsdp=8 does"
    ]
    too_large = dataclasses.replace(other, memory=large)
    assert dataclasses.replace(fsdp, programs=(fsdp.programs[0], too_large)).find_warnings() == []


def test_skipped_batches_are_a_warning(fsdp):
    findings = dataclasses.replace(fsdp, speed=Speed(1.0, (1.0,), ("the loss is not finite",)))
    assert findings.find_warnings() == ["steps: a batch was skipped, because the loss is not finite"]


def test_the_meshes_of_a_slice(devices):
    for mesh, shapes in (({}, [(8, 1), (1, 8)]), ({"data": 2, "fsdp": 4}, [(2, 4), (8, 1), (1, 8)])):
        experiment, *_ = prepare(dense(mesh))
        meshes = [tuple(each.mesh.shape.values()) for each in _vary_mesh(experiment, devices)]
        assert meshes == shapes
    experiment, *_ = prepare(dense(), devices=devices[:1])
    assert len(_vary_mesh(experiment, devices[:1])) == 1


def test_a_slice_without_its_compiler_is_refused_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "libtpu", None)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with pytest.raises(RunError, match=r'^the TPU compiler is not installed: pip install "libtpu==[\d.]+\*"$'):
        check_slice(dense(), "v5e:2x2")


def test_ctrl_c_does_not_wait_for_the_compiler():
    done = threading.Event()
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt), _listen(False) as wait:
            wait("compiling", lambda: done.wait(60))
    finally:
        done.set()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_figures_as_json_are_finite_numbers_and_text(fsdp):
    def walk(value):
        if isinstance(value, dict):
            return all(isinstance(key, str) and walk(each) for key, each in value.items())
        if isinstance(value, list | tuple):
            return all(map(walk, value))
        return value is None or isinstance(value, bool | int | str) or math.isfinite(value)

    figures = fsdp.to_json()
    assert walk(figures)
    assert figures["disk"]["needed"] == fsdp.disk.needed
    assert figures["programs"][0]["total"] == sum(figures["programs"][0]["memory"].values())
    assert figures["speed"]["images_per_second"] == pytest.approx(32 / fsdp.speed.seconds)
