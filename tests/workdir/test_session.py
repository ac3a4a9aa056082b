import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from PIL import Image

import diffusion_jax as dj
from diffusion_jax.config.components import ConfigError
from diffusion_jax.runtime.checkpoint import CheckpointError

ROOT = Path(__file__).parent.parent


def weights(folder: Path) -> tuple[int, dict]:
    """Step and every leaf of the newest checkpoint."""
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager(folder / "checkpoints") as manager:
        step = manager.latest_step()
        items = {name: ocp.args.StandardRestore() for name in ("ema_params", "rest")}
        return step, dict(manager.restore(step, args=ocp.args.Composite(**items)))


def assert_same_run(a: Path, b: Path) -> None:
    """The same bits in parameters, average, optimizer and counts, and the same record."""
    (step_a, a_items), (step_b, b_items) = weights(a), weights(b)
    assert step_a == step_b
    jax.tree.map(np.testing.assert_array_equal, a_items, b_items)
    assert (a / "metrics.jsonl").read_bytes() == (b / "metrics.jsonl").read_bytes()


def stop_after(step: int):
    """A should_stop that says so when asked for the (step + 1)-th time."""
    asked = iter(range(step + 1, 0, -1))
    return lambda: next(asked) == 1


def config(**train) -> dict:
    return tiny.config(tiny.AFFINE, **train)


def unet_config() -> dict:
    return tiny.config(checkpoint_every=30)


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    """A run of 60 steps in one go."""
    folder = tmp_path_factory.mktemp("straight")
    assert dj.train(config(), folder)
    return folder


@pytest.fixture(scope="module")
def unet_run(tmp_path_factory) -> Path:
    """A run of 60 steps of a U-Net with dropout, in one go."""
    folder = tmp_path_factory.mktemp("unet")
    assert dj.train(unet_config(), folder)
    return folder


def test_a_run_leaves_what_it_promises(unet_run):
    assert (unet_run / "samples.png").stat().st_size > 1000
    assert list((unet_run / "events").iterdir())
    assert (unet_run / "samples" / "step_0000060.png").exists()
    entries = [json.loads(line) for line in (unet_run / "metrics.jsonl").read_text().splitlines()]
    assert [x["step"] for x in entries if "loss" in x] == list(range(5, 61, 5))
    assert [x["step"] for x in entries if "eval_loss" in x] == [30, 60]
    losses = [x["eval_loss"] for x in entries if "eval_loss" in x]
    assert losses == sorted(losses, reverse=True)  # it learns


def test_a_unet_stopped_and_started_again_gives_the_same_bits(unet_run, tmp_path):
    assert not dj.train(unet_config(), tmp_path, should_stop=stop_after(30))
    assert dj.train(unet_config(), tmp_path)
    assert_same_run(unet_run, tmp_path)


def learning_config() -> dict:
    """A loss that remembers, of a network that learns its variance and is shown its own guesses."""
    plain = tiny.config({"name": "tiny:Learned"}, steps=20, checkpoint_every=5)
    times = {"name": "LossSecondMomentTimes", "history": 2}
    plain["loss"] = {"name": "HybridLoss", "self_condition": 0.5, "times": times}
    return plain | {"schedule": {"name": "Cosine", "steps": 8}}


def test_what_a_loss_remembers_is_in_the_checkpoint(tmp_path):
    """Stopped when the times are drawn unevenly, and started again: the same bits, memory and all."""
    assert dj.train(learning_config(), tmp_path / "straight")
    assert not dj.train(learning_config(), tmp_path / "stopped", should_stop=stop_after(13))
    _, items = weights(tmp_path / "stopped")
    counts = np.asarray(items["rest"]["memory"]["counts"])
    assert counts.sum() == 13 * 16
    assert counts.min() >= 2
    assert dj.train(learning_config(), tmp_path / "stopped")
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")
    record = (tmp_path / "straight" / "metrics.jsonl").read_text()
    assert "eval_vlb" in record


def test_a_checkpoint_of_a_loss_without_memory_is_as_it_always_was(straight):
    """So that runs from before losses had any go on."""
    assert set(weights(straight)[1]["rest"]) == {"step", "params", "opt_state", "skipped"}


def test_stopped_between_two_checkpoints_gives_the_same_bits(straight, tmp_path):
    assert not dj.train(config(), tmp_path, should_stop=stop_after(33))
    assert weights(tmp_path)[0] == 33
    assert dj.train(config(), tmp_path)
    assert_same_run(straight, tmp_path)


def test_a_shorter_run_made_longer_gives_the_same_bits(straight, tmp_path):
    assert dj.train(config(steps=33), tmp_path)
    assert dj.train(config(steps=60), tmp_path)
    assert_same_run(straight, tmp_path)


def test_killed_in_the_middle_and_started_again_gives_the_same_bits(straight, tmp_path):
    """kill -9, at no particular moment past the second checkpoint."""
    code = f"import tiny, diffusion_jax as dj; dj.train(tiny.config(tiny.AFFINE), {str(tmp_path)!r})"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=ROOT)
    try:
        wait_until(lambda: (tmp_path / "checkpoints" / "20").exists(), process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert dj.train(config(), tmp_path)
    assert_same_run(straight, tmp_path)


def wait_until(condition, process, seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    assert condition()


def test_a_finished_run_is_left_as_it_is(straight):
    before = {p: p.stat().st_mtime_ns for p in (straight / "checkpoints").rglob("*") if p.is_file()}
    record = (straight / "metrics.jsonl").read_bytes()
    assert dj.train(config(), straight)
    after = {p: p.stat().st_mtime_ns for p in (straight / "checkpoints").rglob("*") if p.is_file()}
    assert before == after
    assert (straight / "metrics.jsonl").read_bytes() == record


def test_a_damaged_newest_checkpoint_is_passed_over(straight, tmp_path, caplog):
    dj.train(config(steps=40), tmp_path)
    for victim in (tmp_path / "checkpoints" / "40" / "rest").rglob("*"):
        if victim.is_file():
            victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
    assert dj.train(config(), tmp_path)
    assert "checkpoint 40 is damaged" in caplog.text
    assert (tmp_path / "checkpoints" / "damaged" / "40").exists()
    assert_same_run(straight, tmp_path)


def test_loading_gives_the_average_of_the_newest_checkpoint(unet_run):
    run = dj.load(unet_run)
    assert run.step == 60
    jax.tree.map(np.testing.assert_array_equal, run.params, weights(unet_run)[1]["ema_params"])
    assert run.schedule == dj.schedules.Cosine(steps=100)
    assert run.prediction == dj.predictions.V()
    assert run.sampling.guidance == 1.5
    assert run.config["train"]["batch_size"] == 16


def changed(section: str, field: str, value) -> dict:
    fields = config()
    return fields | {section: fields[section] | {field: value}}


@pytest.mark.parametrize(
    ("section", "field", "value", "named"),
    [
        ("schedule", "steps", 50, "config.schedule.steps = 50"),
        ("train", "seed", 3, "config.train.seed = 3"),
        ("optimizer", "clip_norm", 0.5, "config.optimizer.clip_norm = 0.5"),
        ("loss", "label_drop", 0.2, "config.loss.label_drop = 0.2"),
    ],
)
def test_another_experiment_in_the_folder_is_refused_by_field(section, field, value, named, straight):
    before = (straight / "config.json").read_bytes()
    with pytest.raises(ConfigError, match=named) as error:
        dj.train(changed(section, field, value), straight)
    assert "\n" not in str(error.value)
    assert (straight / "config.json").read_bytes() == before


def test_other_data_in_the_folder_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    path, folder = tmp_path / "mine.npz", tmp_path / "run"
    mine = config(steps=1, batch_size=8) | {"data": {"name": "NPZ", "path": str(path)}}
    labels = np.arange(40) // 4
    np.savez(path, image=rng.integers(0, 255, (40, 8, 8, 1), np.uint8), label=labels)
    dj.train(mine, folder)
    np.savez(path, image=rng.integers(0, 255, (40, 8, 8, 1), np.uint8), label=labels)
    with pytest.raises(ConfigError, match="data fingerprint"):
        dj.train(mine, folder)


def test_a_run_with_code_of_its_own_is_loaded_only_when_allowed(straight):
    with pytest.raises(ConfigError, match="may not import code"):
        dj.load(straight)
    assert dj.load(straight, allow_code=True).step == 60


def test_a_batch_that_the_devices_do_not_divide_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="batch_size = 12: must be divisible by the 8 devices.*use 8"):
        dj.train(config(batch_size=12), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_each_micro_batch_must_be_divisible_too(tmp_path):
    with pytest.raises(ConfigError, match="batch_size = 32: must be divisible by .* accumulate = 8; use 64"):
        dj.train(config(batch_size=32, accumulate=8), tmp_path / "run")


def test_fewer_steps_than_are_done_are_refused(straight):
    before = (straight / "config.json").read_bytes()
    with pytest.raises(ConfigError, match=r"config\.train\.steps = 50: .* is at step 60 already"):
        dj.train(config(steps=50), straight)
    assert (straight / "config.json").read_bytes() == before


def test_a_finished_run_keeps_what_it_wrote_off_schedule(tmp_path):
    dj.train(config(steps=7, eval_every=0), tmp_path)
    record = (tmp_path / "metrics.jsonl").read_bytes()
    assert b"final" in record
    assert dj.train(config(steps=7, eval_every=0), tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == record


def test_stopped_before_its_first_step_a_resumed_run_is_stopped_and_no_more(tmp_path):
    assert not dj.train(config(), tmp_path, should_stop=stop_after(3))
    assert not dj.train(config(), tmp_path, should_stop=lambda: True)
    assert weights(tmp_path)[0] == 3


def test_before_its_first_checkpoint_a_folder_takes_another_experiment(tmp_path):
    assert not dj.train(config(), tmp_path, should_stop=lambda: True)
    assert dj.train(config(steps=2, seed=5), tmp_path)


def test_a_folder_in_use_is_refused(tmp_path):
    from diffusion_jax.runtime.files import lock_workdir

    with lock_workdir(tmp_path), pytest.raises(OSError, match="in use by another process"):
        dj.train(config(), tmp_path)
    assert dj.train(config(steps=1), tmp_path)


def test_pictures_that_cannot_be_shown_are_refused_before_training(tmp_path):
    path = tmp_path / "rgba.npz"
    np.savez(path, image=np.zeros((40, 8, 8, 4), np.uint8), label=np.arange(40) // 4)
    with pytest.raises(ConfigError, match="4 channels; need 1 or 3"):
        dj.train(config() | {"data": {"name": "NPZ", "path": str(path)}}, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_failed_background_save_is_told_and_training_goes_on(tmp_path, caplog, monkeypatch):
    from diffusion_jax.runtime.checkpoint import Checkpoints

    report, failures = Checkpoints.report, iter([True])

    def fail_once(self, wait=False):
        report(self, wait)
        if self.steps() and next(failures, False):
            raise CheckpointError("saving checkpoint 10 failed: no space left")

    monkeypatch.setattr(Checkpoints, "report", fail_once)
    assert dj.train(config(steps=20), tmp_path)
    assert "saving checkpoint 10 failed: no space left; training goes on" in caplog.text
    assert weights(tmp_path)[0] == 20


def test_a_folder_without_a_checkpoint_cannot_be_loaded(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match="no checkpoint in .*train first"):
            dj.load(folder)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="cannot be written"):
        dj.train(config(), tmp_path / "file" / "run")
    assert (tmp_path / "file").read_text() == "mine"


def test_checkpoints_without_their_config_are_not_trained_over(tmp_path):
    (tmp_path / "checkpoints" / "10").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"no config\.json"):
        dj.train(config(), tmp_path)
    assert (tmp_path / "checkpoints" / "10").exists()


def named_pictures(folder: Path) -> dict:
    """A config of pictures in two sub-folders, whose classes have names."""
    for i in range(20):
        path = folder / "pictures" / ("cat", "dog")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 10 * i).save(path)
    plain = tiny.config(tiny.AFFINE, steps=1, batch_size=8)
    plain["data"] = {
        "name": "Folder",
        "path": str(folder / "pictures"),
        "size": 8,
        "channels": 1,
        "classes": "folder",
        "holdout": 5,
        "cache_dir": str(folder / "cache"),
    }
    plain["model"] = {"name": "tiny:TwoClasses"}
    return plain


def test_a_run_among_the_pictures_is_refused(tmp_path):
    """Its samples would be data of the next start."""
    plain = named_pictures(tmp_path)
    inside = tmp_path / "pictures" / "run"
    with pytest.raises(ConfigError, match="lies in the folder of the pictures"):
        dj.train(plain, inside)
    assert not inside.exists()


def test_classes_have_the_names_of_their_folders(tmp_path):
    dj.train(named_pictures(tmp_path), tmp_path / "run")
    run = dj.load(tmp_path / "run", allow_code=True)
    assert [run.class_name(i) for i in (0, 1)] == ["cat", "dog"]
    for wrong in (-1, 2):
        with pytest.raises(ValueError, match=f"labels contain {wrong}: must be from 0 to 1"):
            run.class_name(wrong)
