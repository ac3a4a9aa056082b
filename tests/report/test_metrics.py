import math
import os

import pytest

from diffusion_jax.report.metrics import read_metrics, read_number


@pytest.fixture
def read(tmp_path):
    """Writes metrics.jsonl and reads it: (curves, notes)."""

    def write_and_read(text):
        notes = []
        (tmp_path / "metrics.jsonl").write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_metrics(tmp_path, notes.append), notes

    return write_and_read


def test_each_metric_is_a_curve_over_its_own_steps(read):
    text = '{"step": 20, "loss": 0.5}\n{"step": 40, "loss": 0.25, "skipped": 1}\n{"step": 40, "eval_loss": 0.75}\n'
    curves, notes = read(text)
    assert curves == {"loss": {20: 0.5, 40: 0.25}, "skipped": {40: 1.0}, "eval_loss": {40: 0.75}}
    assert notes == []


def test_the_later_of_two_values_of_a_step_counts_and_steps_are_in_order(read):
    curves, _ = read('{"step": 40, "loss": 1.0}\n{"step": 20, "loss": 2.0}\n{"step": 40, "loss": 3.0}\n')
    assert list(curves["loss"].items()) == [(20, 2.0), (40, 3.0)]


def test_a_last_line_that_is_being_written_is_not_damaged(read):
    curves, notes = read('{"step": 20, "loss": 0.5}\n{"step": 40, "lo')
    assert (curves, notes) == ({"loss": {20: 0.5}}, [])


@pytest.mark.parametrize(
    "line",
    [b"{", b"\xff\x00", b"[1, 2]", b'{"loss": 1.0}', b'{"step": "20", "loss": 1.0}', b"[" * 100_000, b"9" * 5000, b""],
    ids=lambda line: repr(line[:20]),
)
def test_damaged_lines_are_counted_and_the_others_are_read(read, line):
    curves, notes = read(b'{"step": 20, "loss": 0.5}\n' + line + b'\n{"step": 40, "loss": 0.25}\n')
    assert curves == {"loss": {20: 0.5, 40: 0.25}}
    assert notes == ["metrics.jsonl: 1 of 3 lines are damaged and left out"]


@pytest.mark.parametrize("text", ["null", "NaN", "Infinity", "-Infinity", "1e39", "-1e300", "1" + "0" * 400])
def test_what_is_not_finite_in_float32_is_a_gap(read, text):
    curves, notes = read(f'{{"step": 20, "loss": {text}}}\n')
    assert math.isnan(curves["loss"][20])
    assert notes == []


@pytest.mark.parametrize("text", ["true", '"0.5"', "[0.5]", '{"x": 0.5}'])
def test_what_is_no_number_is_left_out(read, text):
    assert read(f'{{"step": 20, "loss": {text}}}\n') == ({}, [])


@pytest.mark.parametrize("step", ["true", "-1", "1" + "0" * 400])
def test_what_cannot_be_a_step_is_left_out(read, step):
    assert read(f'{{"step": {step}, "loss": 0.5}}\n') == ({}, [])


def test_the_smallest_numbers_are_zero():
    assert read_number(5e-324) == 0.0
    assert read_number(1e-40) == 1e-40


def test_a_missing_file_is_no_curve_and_a_pipe_is_not_opened(tmp_path):
    notes = []
    assert read_metrics(tmp_path, notes.append) == {}
    os.mkfifo(tmp_path / "metrics.jsonl")
    assert read_metrics(tmp_path, notes.append) == {}
    assert notes == []
