import dataclasses
import json

import pytest
import results
from measuring import Result

OURS = Result("ours", "", 1000, 2e9, 12.0, 4, (0.5, 0.25, 1.0))
RIVAL = Result("rival", "another layout", 1000, None, 3.0, 2, (1.0, 0.5, 2.0))
OTHER = dataclasses.replace(RIVAL, name="other", flops=8e9)
MISSING = Result("missing", problem="not installed")


def test_the_row_of_a_rival_has_our_operations_and_its_own_time():
    """16 images in 1 s, half as fast as ours; 2 GFLOP in 1 s are 20% of 10 GFLOP/s."""
    figures = results.find_figures(RIVAL, OURS, items=16, ceiling=10e9)
    assert figures == {"rate": 16.0, "ratio": 2.0, "flops": 2e9, "share_of_ceiling": 0.2}


def test_another_architecture_has_its_own_operations():
    assert results.find_figures(OTHER, OURS, items=16, ceiling=10e9)["share_of_ceiling"] == 0.8


def test_the_table_has_a_row_for_each():
    rows = results.compare_rows([OURS, RIVAL, MISSING], 16, "images/s", 10e9)
    assert rows[0][4] == "images/s"
    assert rows[1] == ("ours", "500 ms", "250 ms", "1 s", "32", "1.00", "1,000", "2 GFLOP", "40.0%")
    assert rows[2][:6] == ("rival", "1 s", "500 ms", "2 s", "16", "2.00")
    assert rows[3][:2] == ("missing", "not installed")
    lines = results.markdown(rows).splitlines()
    assert len(lines) == 5
    assert {line.count("|") for line in lines} == {len(rows[0]) + 1}
    assert len({len(line) for line in lines}) == 1


def test_the_json_has_every_round():
    ours, missing = results.describe_results([OURS, MISSING], 16, 10e9)
    assert ours["seconds_per_call"] == [0.5, 0.25, 1.0]
    assert (ours["median"], ours["fastest"], ours["slowest"]) == (0.5, 0.25, 1.0)
    assert (ours["calls_per_round"], ours["preparation"], ours["parameters"]) == (4, 12.0, 1000)
    assert missing == {"name": "missing", "note": "", "problem": "not installed"}


def test_the_record_says_what_was_measured_where(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(results.sys, "argv", ["train_step.py", "--network=tiny"])
    monkeypatch.setenv("XLA_SOMETHING", "1")
    out = tmp_path / "out.json"
    results.report("train step", {"network": "tiny"}, "| the table |", {"rows": [1, 2]}, out)
    record = json.loads(out.read_text())
    assert record["command"] == "python train_step.py --network=tiny"
    assert (record["benchmark"], record["settings"], record["rows"]) == ("train step", {"network": "tiny"}, [1, 2])
    environment = record["environment"]
    assert {"python", "jax", "numpy"} <= set(environment["versions"])
    assert environment["platform"] == "cpu"
    assert environment["cores"] >= 1
    assert environment["environment"]["XLA_SOMETHING"] == "1"
    printed = capsys.readouterr().out
    assert printed.startswith("train step: network tiny\n")
    assert "| the table |" in printed


@pytest.mark.parametrize(
    ("seconds", "text"), [(12.34, "12.3 s"), (1.0, "1 s"), (0.5, "500 ms"), (0.00123, "1.23 ms"), (2e-6, "0.002 ms")]
)
def test_times_have_a_unit(seconds, text):
    assert results.format_time(seconds) == text
