import io
import json
import subprocess
import sys

import numpy as np
import pytest
from event_files import events, read_events
from PIL import Image

from diffusion_jax.runtime import writers
from diffusion_jax.runtime.writers import MetricsWriter


def line(step, **values):
    return json.dumps({"step": step, **values}) + "\n"


def test_each_write_is_one_json_line_in_order(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write(10, {"loss": 0.5, "grad_norm": 2.0})
        writer.write(10, {"eval_loss": 0.25})
        writer.write(20, {"loss": 0.125}, final=True)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(text) for text in lines] == [
        {"step": 10, "loss": 0.5, "grad_norm": 2.0},
        {"step": 10, "eval_loss": 0.25},
        {"step": 20, "loss": 0.125, "final": True},
    ]


def test_a_line_is_on_disk_as_soon_as_it_is_written(tmp_path):
    """A kill must not lose logged values."""
    with MetricsWriter(tmp_path) as writer:
        writer.write(1, {"loss": 0.5})
        assert (tmp_path / "metrics.jsonl").read_text() == line(1, loss=0.5)


def test_a_caller_hears_what_is_written_and_may_fail(tmp_path, caplog):
    heard = []

    def listen(step, metrics):
        if step < 3:
            raise ValueError("no network\nand more")
        heard.append((step, metrics))

    image = np.full((2, 3, 3), 7, np.uint8)
    with MetricsWriter(tmp_path, on_metrics=listen, on_images=lambda *told: heard.append(told)) as writer:
        writer.write(1, {"loss": 0.5})
        writer.write(2, {"loss": 0.25})
        writer.write(3, {"loss": 0.125})
        writer.write_speed(3, 100.0)
        writer.write_image(3, "samples", image)
    assert heard == [(3, {"loss": 0.125}), (3, {"images_per_second": 100.0}), (3, image)]
    assert caplog.messages == ["on_metrics failed at step 1 (no network); training continues"]
    assert (tmp_path / "metrics.jsonl").read_text() == line(1, loss=0.5) + line(2, loss=0.25) + line(3, loss=0.125)


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e-30, 12345678.9])
def test_values_are_kept_to_the_last_digit(tmp_path, value):
    with MetricsWriter(tmp_path) as writer:
        writer.write(1, {"loss": value})
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["loss"] == value


def test_a_resumed_run_drops_what_it_will_write_again(tmp_path):
    kept = '{"step": 10,   "loss": 0.50}\n' + line(20, loss=0.25) + line(20, eval_loss=1.0)
    (tmp_path / "metrics.jsonl").write_text(kept + line(30, loss=0.1) + line(40, loss=0.2))
    with MetricsWriter(tmp_path, start=20) as writer:
        assert (tmp_path / "metrics.jsonl").read_text() == kept  # byte for byte
        writer.write(30, {"loss": 0.75})
    assert (tmp_path / "metrics.jsonl").read_text() == kept + line(30, loss=0.75)


def test_lines_off_schedule_are_dropped_even_before_the_start(tmp_path):
    """They were written because a run ended there; the run that was never stopped has none."""
    stands = line(10, loss=0.5) + line(20, loss=0.25)
    final = line(15, eval_loss=0.3, final=True)
    (tmp_path / "metrics.jsonl").write_text(line(10, loss=0.5) + final + line(20, loss=0.25))
    with MetricsWriter(tmp_path, start=20):
        pass
    assert (tmp_path / "metrics.jsonl").read_text() == stands


@pytest.mark.parametrize("odd", ["3", "[1]", "null", '{"loss": 1}', '{"step": "5"}', '{"step": 5.0}', "\xff{"])
def test_lines_that_are_not_a_record_are_dropped(tmp_path, odd):
    whole = line(10, loss=0.5)
    (tmp_path / "metrics.jsonl").write_bytes(f"{odd}\n{whole}{odd}\n".encode("latin-1"))
    with MetricsWriter(tmp_path, start=20):
        pass
    assert (tmp_path / "metrics.jsonl").read_text() == whole


@pytest.mark.parametrize("cut", [1, 9, 12, 22])
def test_a_line_cut_off_by_a_kill_is_dropped(tmp_path, cut):
    whole = line(10, loss=0.5)
    (tmp_path / "metrics.jsonl").write_text(whole + line(20, loss=0.25)[:cut])
    with MetricsWriter(tmp_path, start=20) as writer:
        writer.write(20, {"loss": 0.25})
    assert (tmp_path / "metrics.jsonl").read_text() == whole + line(20, loss=0.25)


def test_a_line_that_lacks_only_its_end_does_not_swallow_the_next(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(line(10, loss=0.5).removesuffix("\n"))
    with MetricsWriter(tmp_path, start=10) as writer:
        writer.write(20, {"loss": 0.25})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1]) == {"step": 20, "loss": 0.25}


def test_a_new_run_starts_an_empty_record_over_an_old_one(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(line(1, loss=0.5) + line(10, loss=0.5))
    with MetricsWriter(tmp_path):
        pass
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_a_resumed_record_equals_one_that_was_never_stopped(tmp_path):
    def write(writer, steps):
        for step in steps:
            writer.write(step, {"loss": 1 / step})

    for name in ("whole", "resumed"):
        (tmp_path / name).mkdir()
    with MetricsWriter(tmp_path / "whole") as writer:
        write(writer, range(1, 9))
    with MetricsWriter(tmp_path / "resumed") as writer:
        write(writer, range(1, 6))
        writer.write(5, {"eval_loss": 1.0}, final=True)
    with MetricsWriter(tmp_path / "resumed", start=4) as writer:
        write(writer, range(5, 9))
    records = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "resumed")]
    assert records[0] == records[1]


def test_tensorboard_has_the_values_the_speed_and_the_image(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    with MetricsWriter(tmp_path) as writer:
        writer.write(10, {"loss": 0.5})
        writer.write_speed(10, 640.0)
        writer.write_image(10, "samples", pixels)
    found = {tag: (step, value) for tag, step, value in events(tmp_path)}
    assert found.keys() == {"loss", "images_per_second", "samples"}
    assert {step for step, _ in found.values()} == {10}
    assert found["loss"][1].simple_value == 0.5
    assert found["images_per_second"][1].simple_value == 640.0
    image = found["samples"][1].image
    assert (image.height, image.width) == (6, 8)
    np.testing.assert_array_equal(Image.open(io.BytesIO(image.encoded_image_string)), pixels)


def test_tensorboard_shows_a_run_that_is_still_training(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write(10, {"loss": 0.5})
        writer.write_speed(10, 640.0)
        writer.write_image(10, "samples", np.zeros((6, 8, 3), np.uint8))
        assert [tag for tag, _, _ in events(tmp_path)] == ["loss", "images_per_second", "samples"]


def test_two_starts_within_a_second_have_two_files(tmp_path):
    for start in (0, 1):
        with MetricsWriter(tmp_path, start) as writer:
            writer.write(start + 1, {"loss": 0.5})
    assert [step for _, step, _ in events(tmp_path)] == [1, 2]


def test_tensorboard_drops_the_steps_that_a_resumed_run_writes_again(tmp_path):
    with MetricsWriter(tmp_path, start=20) as writer:
        writer.write_speed(30, 640.0)
    (path,) = (tmp_path / "events").iterdir()
    assert [event.step for event in read_events(path) if event.HasField("session_log")] == [21]


def test_speed_is_not_in_the_record(tmp_path):
    """It differs from run to run, and the record of a resumed run must not."""
    with MetricsWriter(tmp_path) as writer:
        writer.write_speed(10, 640.0)
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_record_is_json_whatever_the_numbers_are(tmp_path, value):
    def refuse(name):
        raise AssertionError(name)

    with MetricsWriter(tmp_path) as writer:
        writer.write(1, {"loss": value, "grad_norm": 1.0})
    record = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(record, parse_constant=refuse) == {"step": 1, "loss": None, "grad_norm": 1.0}


def test_it_knows_what_was_recorded_before(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(line(10, loss=1) + line(10, eval_loss=1.0) + line(20, eval_loss=1.0))
    with MetricsWriter(tmp_path, start=10) as writer:
        assert writer.has(10, "eval_loss")
        assert not writer.has(5, "loss")
        assert not writer.has(20, "eval_loss")  # written again by this run


def test_a_complete_run_keeps_its_final_lines(tmp_path):
    text = line(10, loss=0.5) + line(15, eval_loss=0.3, final=True)
    (tmp_path / "metrics.jsonl").write_text(text)
    with MetricsWriter(tmp_path, start=15, complete=True) as writer:
        assert writer.has(15, "eval_loss")
    assert (tmp_path / "metrics.jsonl").read_text() == text


# Faults, made for real: a limit on the size of files acts like a full disk


FULL = """
import resource, sys
from pathlib import Path
import numpy as np
from diffusion_jax.runtime.writers import MetricsWriter
workdir = Path(sys.argv[1])
with MetricsWriter(workdir) as writer:
    writer.write(1, {"loss": 1.0})
    size = (workdir / "metrics.jsonl").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, resource.RLIM_INFINITY))
    for step in range(2, 60):
        writer.write(step, {"loss": 1 / step})
        writer.write_image(step, "samples", np.zeros((64, 64, 3), np.uint8))
    assert (workdir / "metrics.jsonl").stat().st_size <= size + 10
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    writer.write(60, {"loss": 1 / 60})
"""


def test_a_full_disk_is_one_warning_each_and_no_line_is_lost(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("training continues") == 2
    assert len(done.stderr.splitlines()) == 2
    assert (tmp_path / "metrics.jsonl").read_text() == "".join(line(k, loss=1 / k) for k in range(1, 61))


def test_events_go_on_in_a_new_file_once_they_can(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(writers, "_RETRY_SECONDS", 0)
    (tmp_path / "events").write_text("a file in the place of the directory")
    with MetricsWriter(tmp_path) as writer:
        for step in (1, 2):
            writer.write(step, {"loss": 0.5})
        (tmp_path / "events").unlink()
        writer.write(3, {"loss": 0.5})
    assert len(caplog.records) == 1
    assert [step for _, step, _ in events(tmp_path)] == [3]


def test_a_record_that_was_deleted_is_begun_again(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write(1, {"loss": 0.5})
        (tmp_path / "metrics.jsonl").unlink()
        writer.write(2, {"loss": 0.5})
    assert (tmp_path / "metrics.jsonl").read_text() == line(2, loss=0.5)


def test_a_record_that_is_a_directory_is_one_warning(tmp_path, caplog):
    (tmp_path / "metrics.jsonl").mkdir()
    with MetricsWriter(tmp_path) as writer:
        writer.write(1, {"loss": 1.0})
        writer.write(2, {"loss": 1.0})
    assert caplog.text.count("metrics.jsonl cannot be written") == 1
