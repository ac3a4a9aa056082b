import json
import math

import pytest
from run_files import CONFIG, make_run

from diffusion_jax.report.curves import make_charts
from diffusion_jax.report.record import read_run


def charts_of(*runs):
    return {chart.title: chart for chart in make_charts([read_run(str(run), 5) for run in runs])}


def append(run, **entry):
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(entry) + "\n")


LOSS = "Loss: training, and held-out (dashed)"
LAST = "Held-out loss by log-SNR, last evaluation"


def test_one_run_has_these_charts_with_its_values(tmp_path):
    run = make_run(tmp_path / "run")
    charts = charts_of(run)
    assert list(charts) == [
        LOSS,
        LAST,
        "Held-out loss by log-SNR",
        "Learning rate",
        "Images per second",
        "Gradient norm",
    ]
    loss, held_out = charts[LOSS].lines
    assert loss.points == [(20, 0.5), (40, 0.25), (60, 10 / 60), (80, 0.125)]
    assert held_out.points == [(40, 0.5), (80, 0.25)]
    assert (loss.style, held_out.style) == ("run1", "run1 dashed")
    assert charts["Images per second"].lines[0].points == [(20, 120), (40, 140), (60, 160), (80, 180)]
    assert {name for name, chart in charts.items() if chart.y.is_log} == {
        LOSS,
        LAST,
        "Held-out loss by log-SNR",
        "Gradient norm",
    }


def test_bins_go_from_noise_to_data(tmp_path):
    charts = charts_of(make_run(tmp_path / "run"))
    assert charts[LAST].categories == ["below -8", "-8 to -4", "-4 to 0", "0 to 4", "4 to 8", "above 8"]
    (line,) = charts[LAST].lines
    assert line.name.endswith("run, step 80")
    assert [y for _, y in line.points] == pytest.approx([i / 80 for i in range(1, 7)])
    over_steps = charts["Held-out loss by log-SNR"].lines
    assert [line.name for line in over_steps] == [f"log-SNR {name}" for name in charts[LAST].categories]
    assert over_steps[2].points == [(40, 3 / 40), (80, 3 / 80)]


def test_runs_have_a_colour_each_and_share_the_axes(tmp_path):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", steps=(50, 1000), evaluations=(1000,), scale=7.0)
    charts = charts_of(a, b)
    assert [line.style for line in charts[LOSS].lines] == ["run1", "run2", "run1 dashed", "run2 dashed"]
    assert charts[LOSS].x.low == 0 < 1000 < charts[LOSS].x.high
    separate = [charts[f"Held-out loss by log-SNR: {run}"] for run in (a, b)]
    assert (separate[0].x, separate[0].y) == (separate[1].x, separate[1].y)
    assert separate[0].x.high > 1000
    assert separate[0].y.low < 1 / 80 < 7 * 6 / 1000 < separate[0].y.high


def test_a_run_without_a_bin_has_a_gap_there(tmp_path):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", evaluations=())
    append(b, **{"step": 80, "eval_loss": 1.0, "eval_loss/log_snr_0_4": 0.5})
    line = charts_of(a, b)[LAST].lines[1]
    assert [i for i, (_, y) in enumerate(line.points) if not math.isnan(y)] == [3]


def test_other_metrics_have_charts_and_a_count_that_stays_0_has_none(tmp_path):
    run = make_run(tmp_path / "run")
    append(run, step=80, eval_vlb=-0.5, eval_non_finite=2)
    charts = charts_of(run)
    assert charts["eval_vlb"].lines[0].points == [(80, -0.5)]
    assert "eval_non_finite" in charts
    assert "skipped" not in charts
    append(run, step=100, skipped=3)
    assert charts_of(run)["skipped"].lines[0].points[-1] == (100, 3)


def test_a_metric_that_is_never_finite_has_no_chart(tmp_path):
    run = make_run(tmp_path / "run", steps=(), evaluations=())
    append(run, step=20, loss=None, grad_norm=None)
    assert charts_of(run) == {}


def test_a_loss_that_is_not_positive_has_a_linear_axis(tmp_path):
    run = make_run(tmp_path / "run")
    append(run, step=100, loss=-1.0)
    assert not charts_of(run)[LOSS].y.is_log


def test_the_speed_is_shown_where_the_record_has_a_step(tmp_path):
    run = make_run(tmp_path / "run")
    record = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join(record[:2]) + "\n")  # resumed after 40, and not yet at 60
    assert [x for x, _ in charts_of(run)["Images per second"].lines[0].points] == [20, 40]


def test_the_speed_has_a_linear_axis_unless_a_value_would_hide_the_others(tmp_path):
    few = charts_of(make_run(tmp_path / "a", steps=(20, 40, 60)))["Images per second"].y
    peak = charts_of(make_run(tmp_path / "b", steps=(20, 40, 60, 5000)))["Images per second"].y
    assert (few.low, few.is_log, peak.is_log) == (0.0, False, True)


def test_metrics_of_any_name_have_charts(tmp_path):
    run = make_run(tmp_path / "run", CONFIG)
    names = ["", "eval_loss/log_snr_1.2.3_4", "eval_loss/log_snr_" + "9" * 400 + "_inf", "images_per_second"]
    append(run, step=100, **dict.fromkeys(names, 2.5))
    charts = charts_of(run)
    assert [charts[name].lines[0].points for name in names[:3]] == [[(100, 2.5)]] * 3
    assert len(charts[LAST].categories) == 6
