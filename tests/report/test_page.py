"""The page as a reader has it: parsed, with the files of the runs beside it."""

import base64
import hashlib
import json
import re
import shutil

import pytest
from html_tree import read_page
from prepared import one_line
from run_files import CONFIG, config_with, draw_grid, make_run

from diffusion_jax.report import write_report
from diffusion_jax.report.page import format_size


@pytest.fixture
def report(tmp_path, monkeypatch):
    """Writes a report of runs in the current directory and reads it."""
    monkeypatch.chdir(tmp_path)

    def write_and_read(*names, **options):
        size = write_report(list(names), "report.html", **options)
        assert size == (tmp_path / "report.html").stat().st_size
        return read_page((tmp_path / "report.html").read_text())

    return write_and_read


def section(page, title):
    (found,) = [each for each in page.find("section") if each.find("h2")[0].text == title]
    return found


def table(element):
    return {row.children[0].text: [cell.text for cell in row.children[1:]] for row in element.find("tr")}


def test_a_run_is_summarized(report, tmp_path):
    make_run(tmp_path / "a")
    page = report("a")
    summary = table(section(page, "Summary"))
    assert summary["steps"] == ["80 of 600"]
    assert summary["loss"] == ["0.125"]
    assert summary["held-out loss"] == ["0.25"]
    assert summary["lowest held-out loss"] == ["0.25 at step 80"]
    assert summary["images per second, median"] == ["150"]
    assert re.fullmatch(r"\d s in 1 session, until \d{4}-\d\d-\d\d \d\d:\d\d UTC", summary["trained"][0])
    assert len(section(page, "Curves").find("figure")) == 6
    assert table(section(page, "Environment"))["data fingerprint"] == ["0123abcd"]
    assert not page.find("ul", "notes")


def test_the_lowest_held_out_loss_is_not_always_the_last(report, tmp_path):
    make_run(tmp_path / "a")
    with (tmp_path / "a" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 100, "eval_loss": 0.75}\n{"step": 120, "eval_loss": null}\n')
    summary = table(section(report("a"), "Summary"))
    assert summary["held-out loss"] == ["not finite"]
    assert summary["lowest held-out loss"] == ["0.25 at step 80"]


def test_the_whole_config_is_folded_with_its_defaults_pale(report, tmp_path):
    make_run(tmp_path / "a")
    (details,) = section(report("a"), "Configuration").find("details")
    assert "open" not in details.attributes
    fields = table(details)
    assert fields["train.steps"] == ["600"]
    assert fields["train.seed"] == ["0"]
    pale = {row.find("th")[0].text for row in details.find("tr", "pale")}
    assert "train.seed" in pale
    assert "train.steps" not in pale


def test_two_runs_stand_beside_each_other(report, tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", config_with(model_channels=[16], train_seed=0, train_ema_decay=0.5))
    page = report("a", "b")
    assert table(section(page, "Summary"))[""] == ["a", "b"]
    # A field that is written out with its default is no difference.
    assert table(section(page, "Differences")) == {
        "": ["a", "b"],
        "model.channels": ["[8]", "[16]"],
        "train.ema_decay": ["0.999", "0.5"],
    }
    assert [each.find("summary")[0].text for each in section(page, "Configuration").find("details")] == ["a", "b"]
    assert [line.text for line in section(page, "Curves").find("figure")[0].find("li")] == [
        "a",
        "b",
        "a, held-out",
        "b, held-out",
    ]


def test_losses_of_another_definition_are_not_compared(report, tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", config_with(loss_label_drop=0.2, prediction_name="Eps", train_steps=60))
    make_run(tmp_path / "c", config_with(train_steps=60))
    (warning,) = report("a", "b").find("p", "warning")
    assert warning.text.endswith("cannot be compared: they differ in loss.label_drop, prediction.name.")
    assert not report("a", "c").find("p", "warning")


def test_runs_with_the_same_config_say_so(report, tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b")
    assert section(report("a", "b"), "Differences").find("p")[0].text == "The configurations are the same."
    with pytest.raises(ValueError, match="not enough values"):
        section(report("a"), "Differences")


def test_the_slider_has_every_step_and_the_last_grid_is_shown(report, tmp_path):
    make_run(tmp_path / "a", grids=(40, 80))
    make_run(tmp_path / "b", grids=(60,))
    samples = section(report("a", "b"), "Samples")
    (slider,) = samples.find("input")
    assert json.loads(slider.attributes["data-steps"]) == [40, 60, 80]
    assert (slider.attributes["max"], slider.attributes["value"]) == ("2", "2")
    shown = [[("hidden" not in image.attributes) for image in grid.find("img")] for grid in samples.find("figure")]
    assert shown == [[False, True], [True]]
    for grid, name, steps in zip(samples.find("figure"), "ab", [(40, 80), (60,)], strict=True):
        assert [int(image.attributes["data-step"]) for image in grid.find("img")] == list(steps)
        for image, step in zip(grid.find("img"), steps, strict=True):
            data = base64.b64decode(image.attributes["src"].removeprefix("data:image/png;base64,"))
            assert data == (tmp_path / name / "samples" / f"step_{step:07d}.png").read_bytes()


def test_of_many_grids_some_are_embedded_and_the_page_says_so(report, tmp_path):
    make_run(tmp_path / "a", grids=range(0, 100, 5))
    page = report("a", grids=3)
    steps = [int(image.attributes["data-step"]) for image in page.find("img")]
    assert (len(steps), steps[0], steps[-1]) == (3, 0, 95)
    assert [note.text for note in page.find("ul", "notes")[0].find("li")] == [
        "3 of 20 grids of samples are shown, evenly spaced"
    ]


def test_the_page_says_how_large_it_is(report, tmp_path):
    make_run(tmp_path / "a")
    page = report("a")
    said = float(re.match(r"(\d+) kB", page.find("footer")[0].text)[1]) * 1000
    assert said == pytest.approx((tmp_path / "report.html").stat().st_size, rel=0.04)


def test_sizes_are_short():
    assert [format_size(size) for size in (1_234, 99_900, 1_234_567)] == ["1 kB", "100 kB", "1.2 MB"]


def test_the_page_needs_nothing_else(report, tmp_path):
    make_run(tmp_path / "a")
    page = report("a")
    text = (tmp_path / "report.html").read_text()
    assert not re.search(r"https?:|@import|url\(|//[a-z]", re.sub(r"base64,[\w+/=]+", "", text))
    assert not page.find("link")
    sources = re.findall(r'\b(?:src|href)="([^"]*)"', text)
    assert len(sources) == 2
    assert all(source.startswith("data:image/png;base64,") for source in sources)


def test_the_browser_may_run_and_apply_nothing_but_the_page_s_own(report, tmp_path):
    make_run(tmp_path / "a")
    page = report("a")
    (policy,) = [each for each in page.find("meta") if "http-equiv" in each.attributes]
    assert policy.attributes["content"].startswith("default-src 'none'; img-src data:; ")
    for tag in ("script", "style"):
        (element,) = page.find(tag)
        digest = base64.b64encode(hashlib.sha256(element.text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy.attributes["content"]
        assert element.attributes == {}
    assert not re.search(r' (style|on\w+)="', (tmp_path / "report.html").read_text())


def test_a_report_of_the_same_files_is_the_same(report, tmp_path):
    make_run(tmp_path / "a")
    report("a")
    first = (tmp_path / "report.html").read_bytes()
    report("a")
    assert (tmp_path / "report.html").read_bytes() == first


# --- hostile and damaged runs ------------------------------------------------------------------

SCRIPT = "<script>alert(1)<!--"


def test_what_the_files_say_is_text(report, tmp_path):
    config = config_with(model_name=f"{SCRIPT}:Mine", train_note=f'"{SCRIPT}', loss_weighting={SCRIPT: SCRIPT})
    name = f'a" onload="{SCRIPT}'.replace("/", "")
    run = make_run(tmp_path / name, config)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 100, f"</svg>{SCRIPT}": 1.0}) + "\n")
    make_run(tmp_path / "b")
    page = report(name, "b")
    assert len(page.find("script")) == 1
    assert page.find("h1")[0].text == f"{name}b"
    assert f"</svg>{SCRIPT}" in [each.text for each in page.find("figcaption")]
    assert table(section(page, "Differences"))["model.name"] == [f"{SCRIPT}:Mine", "UNet"]
    assert f"loss.weighting.{SCRIPT}" in table(section(page, "Configuration"))


def test_names_that_are_no_text_are_shown_escaped(report, tmp_path):
    name = "a\x1b[31m\udcff"
    make_run(tmp_path / name)
    assert report(name).find("h1")[0].text == r"a\x1b[31m\udcff"


def empty(run):
    for path in run.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (run / "config.json").write_text(json.dumps({"config": CONFIG, "data": None}))


def no_config(run):
    (run / "config.json").unlink()


def damaged_config(run):
    (run / "config.json").write_text("{")


def damaged_grid(run):
    (run / "samples" / "step_0000040.png").write_bytes(b"\x89PNG")


def no_samples(run):
    shutil.rmtree(run / "samples")


def no_events(run):
    shutil.rmtree(run / "events")


def half_a_line(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 100, "lo')


def directories_in_place_of_files(run):
    for name in ("config.json", "metrics.jsonl"):
        (run / name).unlink()
        (run / name).mkdir()


NOTES = {
    empty: ["there are no metrics", "there are no samples", "there are no events"],
    no_config: ["there is no config.json"],
    damaged_config: ["config.json cannot be used ("],
    damaged_grid: ["samples/step_0000040.png cannot be used ("],
    no_samples: ["there are no samples"],
    no_events: ["there are no events"],
    half_a_line: [],
    directories_in_place_of_files: ["there are no metrics"],
}


def test_nothing_is_said_of_the_config_that_a_run_does_not_have(report, tmp_path):
    make_run(tmp_path / "a")
    no_config(make_run(tmp_path / "c"))
    page = report("a", "c")
    assert page.find("p", "warning") == []


def test_imported_weights_say_where_they_are_from(report, tmp_path):
    run = make_run(tmp_path / "a", steps=(), evaluations=(), grids=())
    (run / "config.json").write_text(json.dumps({"config": CONFIG, "data": None, "imported_from": "ckpt.pt"}))
    page = report("a")
    assert table(section(page, "Environment"))["imported from"] == ["ckpt.pt"]
    assert [note.text for note in page.find("ul", "notes")[0].find("li")] == [
        "there are no metrics",
        "there are no samples",
        "there are no events, and so no speed and no time",
    ]


@pytest.mark.parametrize("damage", NOTES, ids=lambda damage: damage.__name__)
def test_what_is_missing_or_damaged_is_a_note_and_the_rest_is_shown(report, tmp_path, damage):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b")
    damage(make_run(tmp_path / "c"))
    page = report("a", "c", "b")
    notes = [note.text for each in page.find("ul", "notes") for note in each.find("li")]
    assert len(notes) == len(NOTES[damage])
    for note, expected in zip(notes, NOTES[damage], strict=True):
        assert note.startswith(f"c: {expected}")
    assert table(section(page, "Summary"))["loss"][::2] == ["0.125", "0.125"]
    report("c")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["nowhere"], "workdir = nowhere: does not exist; use the --workdir of a training"),
        (["a", "other"], "workdir = other: holds no run; use the --workdir of a training"),
        (["a", "a/"], "workdir = a: is named twice; name each run once"),
        ([f"run{i}" for i in range(9)], "workdir has 9 runs: must be 1 to 8; write several reports"),
        ([], "workdir has 0 runs: must be 1 to 8"),
        (["s3://bucket/run"], "workdir = s3://bucket/run: must be a path of this machine or gs://bucket/run"),
        ([""], "workdir = '': must be a path"),
    ],
)
def test_what_cannot_be_reported_is_one_line_and_nothing_is_written(report, tmp_path, names, message):
    make_run(tmp_path / "a")
    (tmp_path / "other").mkdir()
    (tmp_path / "report.html").write_text("before")
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        report(*names)
    one_line(error)
    assert (tmp_path / "report.html").read_text() == "before"


def test_grids_must_be_an_integer_of_at_least_1(report, tmp_path):
    make_run(tmp_path / "a")
    for grids in (0, 1.5, True):
        with pytest.raises(ValueError, match="grids = .*: must be an integer >= 1"):
            report("a", grids=grids)


def test_one_path_is_one_run_and_nothing_of_it_is_changed(tmp_path):
    run = make_run(tmp_path / "a")
    draw_grid(run, 120)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    write_report(run, tmp_path / "report.html")
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
