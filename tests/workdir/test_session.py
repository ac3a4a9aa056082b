"""Training in a directory: what it leaves, and that stops, kills and damage do not change the result by a bit."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from checkpoints import assert_same_run, read_checkpoint
from PIL import Image

import diffusion_jax as dj
from diffusion_jax.config.components import ConfigError
from diffusion_jax.runtime.checkpoint import Checkpoints
from diffusion_jax.runtime.errors import CheckpointError
from diffusion_jax.runtime.files import lock_workdir
from diffusion_jax.training import estimate
from diffusion_jax.workdir.preparation import prepare
from diffusion_jax.workdir.program import iterate_batches

ROOT = Path(__file__).parents[2]


def read_metrics(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def stop_after(step: int):
    """A should_stop that returns True when it is called for the (step + 1)-th time."""
    calls = iter(range(step + 1, 0, -1))
    return lambda: next(calls) == 1


def config(**train) -> dict:
    return tiny.config(tiny.AFFINE, **train)


def with_field(section: str, field: str, value) -> dict:
    fields = config()
    return fields | {section: fields[section] | {field: value}}


# What a run leaves


def test_a_run_leaves_metrics_samples_and_events(straight):
    assert (straight / "samples.png").stat().st_size > 1000
    assert list((straight / "events").iterdir())
    assert (straight / "samples" / "step_0000060.png").read_bytes() == (straight / "samples.png").read_bytes()
    metrics = read_metrics(straight)
    assert [x["step"] for x in metrics if "loss" in x] == list(range(5, 61, 5))
    assert [x["step"] for x in metrics if "eval_loss" in x] == [30, 60]
    losses = [x["eval_loss"] for x in metrics if "eval_loss" in x]
    assert losses == sorted(losses, reverse=True)  # it learns


def test_a_caller_hears_the_record_the_speed_and_the_grids(tmp_path):
    metrics, grids = [], []
    train = functools.partial(
        dj.train,
        on_metrics=lambda step, values: metrics.append({"step": step, **values}),
        on_images=lambda step, image: grids.append((step, image)),
    )
    plain = config(steps=20, sample_every=10, eval_every=10)
    assert not train(plain, tmp_path, should_stop=stop_after(10))
    assert train(plain, tmp_path)
    record = [values for values in metrics if "images_per_second" not in values]
    assert record == read_metrics(tmp_path)
    assert [values["step"] for values in metrics if "images_per_second" in values] == [5, 10, 15, 20]
    assert [step for step, _ in grids] == [10, 20]
    with Image.open(tmp_path / "samples.png") as shown:
        np.testing.assert_array_equal(grids[-1][1], np.asarray(shown.convert("RGB")))


def test_what_is_not_a_function_is_refused_before_anything_is_written(tmp_path):
    for name in ("should_stop", "on_metrics", "on_images"):
        with pytest.raises(ConfigError, match=f"^{name} = 'wandb': must be a function$"):
            dj.train(config(), tmp_path / "run", **{name: "wandb"})
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_samples_come_from_the_same_noise_at_every_step_and_from_the_seed(tmp_path):
    """At a learning rate that changes nothing, the grids of two steps are equal; with another seed they are not."""

    def grids(name, seed):
        plain = config(steps=2, sample_every=1, seed=seed)
        plain["optimizer"] = {"name": "sgd", "lr_schedule": 1e-30}
        assert dj.train(plain, tmp_path / name)
        return [(tmp_path / name / "samples" / f"step_000000{step}.png").read_bytes() for step in (1, 2)]

    first, second = grids("a", 0)
    other, _ = grids("b", 1)
    assert first == second != other


def test_a_large_network_on_a_cpu_is_warned_of_before_anything_compiles(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(estimate, "_LARGE", 12)  # one parameter less than the network has
    assert not dj.train(config(steps=700), tmp_path, should_stop=lambda: True)
    assert "million parameters on a CPU: a step will take about" in caplog.text
    assert ", 700 steps about" in caplog.text


def test_a_loss_without_memory_keeps_the_older_layout_of_checkpoints(straight):
    """So that runs from before losses had any can resume."""
    assert set(read_checkpoint(straight)[1]["rest"]) == {"step", "params", "opt_state", "skipped"}


def test_a_finished_run_is_not_changed(straight):
    def files():
        return {path: path.stat().st_mtime_ns for path in (straight / "checkpoints").rglob("*") if path.is_file()}

    before, metrics = files(), (straight / "metrics.jsonl").read_bytes()
    assert dj.train(config(), straight)
    assert files() == before
    assert (straight / "metrics.jsonl").read_bytes() == metrics


def test_a_finished_run_keeps_the_metrics_that_it_wrote_off_schedule(tmp_path):
    dj.train(config(steps=7, eval_every=0), tmp_path)
    metrics = (tmp_path / "metrics.jsonl").read_bytes()
    assert b"final" in metrics
    assert dj.train(config(steps=7, eval_every=0), tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == metrics


# Resuming, to the bit


def resume_from(step: int, workdir: Path, plain: dict, copy: Path, steps: int) -> None:
    """Trains `steps` more from checkpoint `step` of a copy of a run, as after a kill before the next checkpoint."""
    shutil.copytree(workdir, copy)
    for later in (copy / "checkpoints").iterdir():
        if later.name.isdigit() and int(later.name) > step:
            shutil.rmtree(later)
    assert read_checkpoint(copy)[0] == step
    dj.train(plain, copy, should_stop=stop_after(steps))


@pytest.mark.slow
def test_a_unet_with_dropout_resumes_to_the_same_bits(tmp_path, monkeypatch, devices):
    # On one device: XLA's emulated ones share threads, and convolutions beside an all-reduce can block each other.
    monkeypatch.setattr(jax, "devices", lambda: devices[:1])
    model = tiny.UNET | {"channels": [4], "groups": 2}
    plain = tiny.config(model, log_every=2, checkpoint_every=3)
    assert not dj.train(plain, tmp_path / "straight", should_stop=stop_after(6))
    resume_from(3, tmp_path / "straight", plain, tmp_path / "resumed", steps=3)
    assert_same_run(tmp_path / "straight", tmp_path / "resumed")
    assert len(jax.tree.leaves(read_checkpoint(tmp_path / "straight")[1]["ema_params"])) > 40


@pytest.mark.slow
def test_the_memory_of_a_loss_is_in_the_checkpoint(tmp_path):
    """Resumed when the times are drawn unevenly: the same bits, memory included."""
    learning = tiny.config({"name": "tiny:Learned"}, steps=18, checkpoint_every=15)
    times = {"name": "LossSecondMomentTimes", "history": 2}
    learning["loss"] = {"name": "HybridLoss", "self_condition": 0.5, "times": times}
    learning["schedule"] = {"name": "Cosine", "steps": 8}
    learning["sampler"] = {"name": "DDIM", "steps": 2}
    assert dj.train(learning, tmp_path / "straight")
    resume_from(15, tmp_path / "straight", learning, tmp_path / "resumed", steps=3)
    assert_same_run(tmp_path / "straight", tmp_path / "resumed")
    counts = np.asarray(read_checkpoint(tmp_path / "straight")[1]["rest"]["memory"]["counts"])
    assert counts.sum() == 18 * 16
    assert counts.min() >= 2
    assert any("eval_vlb" in entry for entry in read_metrics(tmp_path / "straight"))


def test_stopped_between_two_checkpoints_it_resumes_to_the_same_bits(straight, tmp_path):
    assert not dj.train(config(), tmp_path, should_stop=stop_after(33))
    assert read_checkpoint(tmp_path)[0] == 33
    assert dj.train(config(), tmp_path)
    assert_same_run(straight, tmp_path)


def test_calls_of_several_steps_and_data_on_the_devices_change_no_bit(straight, tmp_path):
    """Stopped between two checkpoints, and resumed with calls of another length and the data on the host again."""
    fast = config(steps_per_call=7, data_on_device=True)
    assert not dj.train(fast, tmp_path, should_stop=stop_after(5))
    step, _ = read_checkpoint(tmp_path)
    assert 5 < step < 60
    assert dj.train(config(steps_per_call=100), tmp_path)
    assert_same_run(straight, tmp_path)


@pytest.mark.slow
def test_a_shorter_run_made_longer_gives_the_same_bits(straight, tmp_path):
    assert dj.train(config(steps=33), tmp_path)
    assert dj.train(config(steps=60), tmp_path)
    assert_same_run(straight, tmp_path)


@pytest.mark.slow
def test_killed_in_the_middle_it_resumes_to_the_same_bits_with_the_default_options(tmp_path, default_options):
    """kill -9 at a random moment after the second checkpoint. Both are stopped at step 50, before the evaluation."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    code = f"import tiny, diffusion_jax as dj; dj.train(tiny.config(tiny.AFFINE, eval_every=0), {str(killed)!r})"
    flags = f"--xla_force_host_platform_device_count={len(jax.devices())}"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests"), "XLA_FLAGS": flags}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=ROOT)
    try:
        wait_until(lambda: (killed / "checkpoints" / "20").exists(), process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    step, _ = read_checkpoint(killed)
    for workdir, steps in ((killed, 50 - step), (whole, 50)):
        assert not dj.train(config(eval_every=0), workdir, should_stop=stop_after(steps))
    assert_same_run(whole, killed)


def wait_until(condition, process, seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    assert condition()


def test_a_damaged_newest_checkpoint_is_passed_over(straight, tmp_path, caplog):
    shutil.copytree(straight, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints" / "60" / "rest").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert dj.train(config(), tmp_path / "run")
    assert "checkpoint 60 is damaged" in caplog.text
    assert (tmp_path / "run" / "checkpoints" / "damaged" / "60").exists()
    assert_same_run(straight, tmp_path / "run")


def test_stopped_before_its_first_step_a_resumed_run_stays_where_it_is(tmp_path):
    assert not dj.train(config(), tmp_path, should_stop=stop_after(3))
    assert not dj.train(config(), tmp_path, should_stop=lambda: True)
    assert read_checkpoint(tmp_path)[0] == 3


def test_before_its_first_checkpoint_a_directory_takes_another_experiment(tmp_path):
    assert not dj.train(config(), tmp_path, should_stop=lambda: True)
    assert dj.train(config(steps=2, seed=5), tmp_path)


def test_a_run_resumes_on_another_mesh(straight, tmp_path):
    shutil.copytree(straight, tmp_path / "run")
    assert dj.train(config(steps=61) | {"mesh": {"data": 2, "fsdp": 4}}, tmp_path / "run")
    assert read_checkpoint(tmp_path / "run")[0] == 61


def test_a_failed_background_save_is_reported_and_training_continues(tmp_path, caplog, monkeypatch):
    report, failures = Checkpoints.report, iter([True])

    def fail_once(self, wait=False):
        report(self, wait)
        if self.steps() and next(failures, False):
            raise CheckpointError("saving checkpoint 10 failed: no space left")

    monkeypatch.setattr(Checkpoints, "report", fail_once)
    assert dj.train(config(steps=20), tmp_path)
    assert "saving checkpoint 10 failed: no space left; training continues" in caplog.text
    assert read_checkpoint(tmp_path)[0] == 20


# Refusals, before anything is compiled or changed


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        ("schedule", "steps", 50, "config.schedule.steps = 50"),
        ("train", "seed", 3, "config.train.seed = 3"),
        ("optimizer", "clip_norm", 0.5, "config.optimizer.clip_norm = 0.5"),
        ("loss", "label_drop", 0.2, "config.loss.label_drop = 0.2"),
        ("train", "steps", 50, r"config\.train\.steps = 50: .* is at step 60 already"),
    ],
)
def test_another_experiment_in_the_directory_is_refused_by_field(section, field, value, message, straight):
    before = (straight / "config.json").read_bytes()
    with pytest.raises(ConfigError, match=message) as error:
        dj.train(with_field(section, field, value), straight)
    assert "\n" not in str(error.value)
    assert (straight / "config.json").read_bytes() == before


def test_other_data_in_the_directory_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    path, workdir = tmp_path / "mine.npz", tmp_path / "run"
    own = config(steps=1, batch_size=8) | {"data": {"name": "NPZ", "path": str(path)}}
    labels = np.arange(40) // 4
    np.savez(path, image=rng.integers(0, 255, (40, 8, 8, 1), np.uint8), label=labels)
    dj.train(own, workdir)
    np.savez(path, image=rng.integers(0, 255, (40, 8, 8, 1), np.uint8), label=labels)
    with pytest.raises(ConfigError, match="data fingerprint"):
        dj.train(own, workdir)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"batch_size": 12}, "batch_size = 12: must be divisible by the 8 devices.*use 8"),
        ({"batch_size": 32, "accumulate": 8}, "batch_size = 32: must be divisible by .* accumulate = 8; use 64"),
        ({"steps_per_call": 0}, "config.train: steps_per_call = 0: must be an integer >= 1"),
        ({"data_on_device": 1}, "config.train.data_on_device = 1: must be of type bool"),
        ({"batch_size": 1624}, "config.train.batch_size = 1624: the data have only 1617 training images; use at most"),
    ],
)
def test_a_batch_that_the_devices_or_the_data_do_not_fit_is_refused(train, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        dj.train(config(**train), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_data_that_the_devices_do_not_hold_are_refused(tmp_path, monkeypatch):
    """1617 images of 64 bytes with 4 of the label are 107 KiB."""
    monkeypatch.setattr("diffusion_jax.workdir.preparation.find_capacity", lambda mesh: 1617 * 68 - 1)
    with pytest.raises(ConfigError, match="^config.train.data_on_device = True: .* take 0.000102 GiB, and a device"):
        dj.train(config(data_on_device=True), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr("diffusion_jax.workdir.preparation.find_capacity", lambda mesh: 1617 * 68)
    assert not dj.train(config(data_on_device=True), tmp_path / "run", should_stop=lambda: True)


def test_a_directory_in_use_is_refused(tmp_path):
    with lock_workdir(tmp_path), pytest.raises(OSError, match="in use by another process"):
        dj.train(config(), tmp_path)
    assert not dj.train(config(), tmp_path, should_stop=lambda: True)


def test_images_that_cannot_be_shown_are_written_as_arrays(tmp_path):
    latents = np.random.default_rng(0).normal(size=(40, 8, 8, 4)).astype(np.float32)
    np.savez(tmp_path / "latents.npz", image=latents, label=np.arange(40) // 4)
    data = {"data": {"name": "NPZ", "path": str(tmp_path / "latents.npz"), "holdout": 5}}
    plain = config(steps=2, sample_every=1, batch_size=8) | data
    with pytest.raises(ConfigError, match=r"sampler.clip = True: the images reach [34]\.\d+.* set it to False"):
        dj.train(plain, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    seen = []
    free = plain | {"sampler": plain["sampler"] | {"clip": False}}
    dj.train(free, tmp_path / "run", on_images=lambda step, image: seen.append(step))
    assert seen == []
    assert sorted(path.name for path in (tmp_path / "run" / "samples").iterdir()) == [
        "step_0000001.npz",
        "step_0000002.npz",
    ]
    with np.load(tmp_path / "run" / "samples" / "step_0000002.npz", allow_pickle=False) as file:
        assert file["image"].dtype == np.float32
        assert file["image"].shape == (100, 8, 8, 4)
        np.testing.assert_array_equal(file["label"], np.repeat(np.arange(10), 10))


def test_a_directory_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="cannot be written"):
        dj.train(config(), tmp_path / "file" / "run")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    "text", [None, "", '{"config": {"data"', "[]", "\xff", "[" * 200_000, '{"config": {"data": {}}, "data": "x"}']
)
def test_a_config_that_is_lost_or_cut_is_rebuilt_from_the_checkpoint(text, straight, tmp_path, caplog):
    shutil.copytree(straight, tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    before = path.read_bytes()
    path.unlink()
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match="config.train.seed = 3"):  # it is compared all the same
        dj.train(config(seed=3), tmp_path / "run")
    assert dj.train(config(), tmp_path / "run")
    assert path.read_bytes() == before
    assert "rebuilt from the newest checkpoint" in caplog.text


@pytest.mark.parametrize("odd", ["directory", "file", "link", "\u00b2", "00060"])
def test_what_only_has_the_name_of_a_checkpoint_is_none(odd, straight, tmp_path):
    shutil.copytree(straight, tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / ("99" if odd.isascii() and not odd.isdigit() else odd)
    if odd == "file":
        path.write_text("")
    elif odd == "link":
        path.symlink_to(tmp_path / "nowhere")
    else:
        path.mkdir()
    assert dj.train(config(), tmp_path / "run")


def test_a_backslash_which_checkpoints_take_for_a_slash_is_refused(straight, tmp_path):
    shutil.copytree(straight, tmp_path / "a\\b")
    for use in (dj.load, lambda workdir: dj.train(config(), workdir)):
        with pytest.raises(ValueError, match=r"workdir = .*a\\b: has a \\, which checkpoints take for a /; rename it"):
            use(tmp_path / "a\\b")


def test_checkpoints_without_their_config_are_not_trained_over(tmp_path):
    (tmp_path / "checkpoints" / "10").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="no sound checkpoint"):
        dj.train(config(), tmp_path)
    assert (tmp_path / "checkpoints" / "10").exists()


@pytest.mark.parametrize("name", ["run\udcff", "a\udce9/b"])
def test_a_path_that_the_checkpoint_writer_cannot_use_is_refused_before_training(name, tmp_path):
    """A byte that is not UTF-8."""
    with pytest.raises(CheckpointError, match="checkpoints cannot be written to"):
        dj.train(config(), tmp_path / name)
    assert not (tmp_path / name / "metrics.jsonl").exists()


@pytest.mark.parametrize("address", ["gs://", "s3://bucket/run", "file:///tmp/run", "http://host/run"])
def test_an_address_is_not_a_directory(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for use in (lambda: dj.train(config(), address), lambda: dj.load(address)):
        with pytest.raises(ValueError, match=f"workdir = {address}: must be a path of this machine"):
            use()
    assert list(tmp_path.iterdir()) == []


def test_the_home_directory_is_found(straight, monkeypatch):
    monkeypatch.setenv("HOME", str(straight.parent))
    assert dj.load(f"~/{straight.name}", allow_code=True).step == 60


@pytest.mark.slow
def test_micro_batches_may_change_on_resume(tmp_path):
    assert not dj.train(config(), tmp_path, should_stop=stop_after(10))
    assert dj.train(config(steps=20, accumulate=2), tmp_path)


# Images in directories


def named_images(parent: Path) -> dict:
    """A config for images in two sub-directories, whose names are the classes."""
    for i in range(20):
        path = parent / "images" / ("cat", "dog")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 10 * i).save(path)
    plain = tiny.config({"name": "tiny:TwoClasses"}, steps=1, batch_size=8)
    plain["data"] = {
        "name": "Folder",
        "path": str(parent / "images"),
        "size": 8,
        "channels": 1,
        "classes": "folder",
        "holdout": 5,
        "cache_dir": str(parent / "cache"),
    }
    return plain


def test_a_run_among_the_training_images_is_refused(tmp_path):
    """Its samples would be training images of the next start."""
    plain, inside = named_images(tmp_path), tmp_path / "images" / "run"
    with pytest.raises(ConfigError, match="is inside the directory of the training images"):
        dj.train(plain, inside)
    assert not inside.exists()


@pytest.mark.slow
def test_classes_have_the_names_of_their_directories(tmp_path):
    dj.train(named_images(tmp_path), tmp_path / "run")
    run = dj.load(tmp_path / "run", allow_code=True)
    assert [run.class_name(i) for i in (0, 1)] == ["cat", "dog"]
    for wrong in (-1, 2):
        with pytest.raises(ValueError, match=f"labels contain {wrong}: must be from 0 to 1"):
            run.class_name(wrong)


@pytest.mark.slow
def test_an_evaluation_takes_only_so_many_examples(tmp_path):
    """At a learning rate that changes nothing, it is the loss of the first of them alone."""

    def eval_loss(name, **train):
        plain = config(steps=1, eval_every=1, **train)
        plain["optimizer"] = {"name": "sgd", "lr_schedule": 1e-30}
        dj.train(plain, tmp_path / name)
        return next(x["eval_loss"] for x in read_metrics(tmp_path / name) if "eval_loss" in x)

    losses = [eval_loss(str(n), eval_examples=n) for n in (16, 32, 180, 0)]
    assert losses[2] == losses[3]  # all that there are
    assert len(set(losses)) == 3


def test_shorter_calls_have_the_shape_of_the_others_so_that_none_compiles_again():
    experiment, training, _ = prepare(config(steps=8, log_every=4, steps_per_call=3))
    shapes = [batch["image"].shape for batch in iterate_batches(experiment, training, 0)]
    assert shapes == [(3, 16, 8, 8, 1)] * 4  # of 3, 1, 3 and 1 steps
