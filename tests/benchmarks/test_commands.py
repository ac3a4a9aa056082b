"""The commands of benchmarks/speed: flags that are refused, the documentation, the stages of gpu.py, and rows."""

import contextlib
import fcntl
import json
import os
import re
import sys
import time
from pathlib import Path

import checkpoint
import cost_model
import gpu
import options
import pipeline
import pytest
import rivals
import sampling
import scaling
import start
import train_step
from measuring import Budget

from diffusion_jax.cli.errors import exit_code

MODULES = (train_step, sampling, pipeline, start, checkpoint, scaling, cost_model, gpu)
COMMANDS = {module.COMMAND.name: module.COMMAND for module in MODULES}
ROOT = Path(__file__).parents[2]


def cells_of(table):
    """The cells of the first row below the head."""
    return [cell.strip() for cell in table.splitlines()[2].strip("|").split("|")]


def flags_of(command):
    return {flag.name for flag in command.flags} | {"help"}


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        (train_step, ["--network=vgg"], "flag --network=vgg: value should be one of <digits|unet32|"),
        (train_step, ["--batch=-1"], "flag --batch=-1: -1 is not "),
        (train_step, ["--rivals=eager,fast"], '--rivals = "fast": must be some of eager, channels_last, compile'),
        (train_step, ["--seconds=nan"], "--seconds = nan: must be a number of seconds >= 0"),
        (train_step, ["--budget=-3"], "--budget = -3.0: must be a number of seconds >= 0"),
        (train_step, ["--threads=4096"], "--threads = 4096: this process has "),
        (train_step, ["--json=out.txt"], "--json=out.txt: the ending must be .json"),
        (sampling, ["--steps=0"], "flag --steps=0: 0 is not an integer in the range [1, 100]"),
        (sampling, ["20"], 'unexpected argument "20"'),
        (start, ["--rivals=lucidrains"], '--rivals = "lucidrains": must be some of eager, channels_last'),
        (train_step, ["--variants=plain,fast"], '--variants = "fast": must be some of plain, remat_activations'),
        (scaling, ["--network=mnist"], "flag --network=mnist: value should be one of <digits|unet32|cifar10|tiny>"),
        (scaling, ["--devices=9"], "flag --devices=9: 9 is not an integer in the range [1, 8]"),
        (scaling, ["--batch=12"], "--batch = 12: must be divisible by 2 and by --devices=8"),
        (scaling, ["--batch=1", "--devices=1"], "--batch = 1: must be divisible by 2 and by --devices=1"),
        (cost_model, ["--mfu=0"], "--mfu = 0.0: must be a share of the peak"),
        (gpu, [], "--out: required"),
        (gpu, ["--out=x", "--budget=0"], "--budget = 0.0: must be a number of seconds > 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_flag_is_one_line(command, arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))  # scaling.py adds to it
    assert exit_code(lambda: command.COMMAND(arguments)) == 1
    errors = capsys.readouterr().err
    assert errors.startswith(f"error: {message}")
    assert errors.count("\n") == 1


def test_cores_are_left_alone_by_default(monkeypatch):
    monkeypatch.setattr(options.os, "sched_setaffinity", pytest.fail, raising=False)
    options.choose_cores(0)


def test_a_number_of_cores_restricts_both_libraries(monkeypatch):
    chosen = []
    monkeypatch.setattr(options.os, "sched_getaffinity", lambda pid: {5, 3, 4}, raising=False)
    monkeypatch.setattr(options.os, "sched_setaffinity", lambda pid, cores: chosen.append(cores), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    options.choose_cores(2)
    assert chosen == [[3, 4]]
    assert options.os.environ["OMP_NUM_THREADS"] == "2"


@pytest.mark.parametrize("stage", [*gpu.STAGES, *gpu.SMOKE], ids=lambda stage: stage.name)
def test_the_stages_are_commands_with_flags_that_exist(stage):
    script, *arguments = stage.arguments
    for argument in arguments:
        assert argument.partition("=")[0].removeprefix("--") in flags_of(COMMANDS[script])
    for flag in ["json", *["budget"] * stage.takes_budget()]:
        assert flag in flags_of(COMMANDS[script])
    rows = [argument.partition("=")[2].split(",") for argument in arguments if argument.startswith("--rivals=")]
    assert {name for row in rows for name in row} <= set(rivals.RIVALS)
    assert stage.seconds <= stage.most


def test_the_pages_name_flags_that_exist():
    text = "".join((ROOT / "docs" / name).read_text() for name in ("speed.md", "scaling.md"))
    found = re.findall(r"python benchmarks/speed/(\w+\.py)(.*)", text.replace("\\\n", " "))
    assert {name for name, _ in found} == set(COMMANDS)
    for name, arguments in found:
        assert set(re.findall(r"--(\w+)", arguments)) <= flags_of(COMMANDS[name]), name


class FakeRunner:
    """Every stage takes as long as it may."""

    def __init__(self):
        self.now, self.most = 0.0, []

    def __call__(self, stage, out, most):
        self.now += stage.most
        self.most.append(most)
        return "done"


def test_what_does_not_fit_into_the_budget_is_left_out_and_named(tmp_path):
    limits = [("a", 10, 60), ("b", 50, 60), ("c", 5, 30)]
    stages = [gpu.Stage(name, ("train_step.py",), least, most) for name, least, most in limits]
    run = FakeRunner()
    budget = Budget(100.0, lambda: run.now)
    found = gpu.run_stages(stages, tmp_path, budget, run)
    assert found == {"a": "done", "b": "left out: 40 s are left, it needs 50 s", "c": "done"}
    assert run.most == [60, 30]


def test_a_stage_never_gets_more_than_is_left(tmp_path):
    run = FakeRunner()
    gpu.run_stages([gpu.Stage("a", ("start.py",), 10, 60)], tmp_path, Budget(25.0, lambda: run.now), run)
    assert run.most == [25.0]


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Stages run the text of this file instead of a benchmark."""
    path = tmp_path / "mine.py"
    monkeypatch.setattr(gpu, "__file__", str(tmp_path / "gpu.py"))
    return path


def test_a_stage_leaves_its_output(script, tmp_path):
    script.write_text("import sys; open(sys.argv[-1].partition('=')[2], 'w').write('{}'); print(sys.argv[1])")
    found = gpu.make_runner({})(gpu.Stage("a", ("mine.py", "--network=tiny"), 0, 60), tmp_path, 60)
    assert re.fullmatch(r"done in \d+ s", found)
    assert (tmp_path / "a.txt").read_text() == "--network=tiny\n"
    assert json.loads((tmp_path / "a.json").read_text()) == {}


def test_a_stage_that_fails_is_named_with_its_last_line(script, tmp_path):
    script.write_text("import sys; print('a warning', file=sys.stderr); sys.exit('error: no memory')")
    assert gpu.make_runner({})(gpu.Stage("a", ("mine.py",), 0, 60), tmp_path, 60) == "failed: error: no memory"
    assert not (tmp_path / "a.txt").exists()


def wait_for_lock(path):
    """Fails if the lock is still held after 20 s; a killed process may take a moment to end."""
    with path.open("w") as file:
        for _ in range(200):
            with contextlib.suppress(BlockingIOError):
                return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            time.sleep(0.1)
    pytest.fail(f"{path} is still locked")


def test_a_stage_that_takes_too_long_is_stopped_with_what_it_has_started(tmp_path):
    """Both hold a lock on a file, as long as one of them lives."""
    program = f"""
import fcntl, subprocess, sys
file = open({str(tmp_path / "lock")!r}, "w")
fcntl.flock(file, fcntl.LOCK_EX)
waits = [sys.executable, "-c", "import time; time.sleep(60)"]
subprocess.run(waits, pass_fds=[file.fileno()], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
"""
    assert gpu.run_group([sys.executable, "-c", program], {}, 1.0) == (None, "", "")
    wait_for_lock(tmp_path / "lock")


def test_a_process_that_fails_is_a_row(monkeypatch):
    def fail(settings, places):
        raise RuntimeError("failed: no device")

    monkeypatch.setattr(start, "run_process", fail)
    row = start.measure_row("PyTorch, eager", {}, 1, [])
    assert row == {"name": "PyTorch, eager", "problem": "failed: no device"}
    assert "failed: no device" in start.make_table([row])


def test_a_filled_cache_is_filled_by_another_process(monkeypatch):
    places = []

    def run(settings, environment):
        places.append(environment.get("JAX_COMPILATION_CACHE_DIR"))
        return dict.fromkeys(("whole process", *start.STAGES), float(len(places)))

    monkeypatch.setattr(start, "run_process", run)
    assert start.measure_row("a", {}, 1, [])["medians"]["import"] == 1.0
    assert start.measure_row("b", {}, 1, ["new"])["medians"]["import"] == 2.0
    filled = start.measure_row("c", {}, 2, ["new", "kept"])
    assert [run["import"] for run in filled["processes"]] == [4.0, 6.0]
    assert places[0] is None
    assert len(set(places[1:])) == 3
    assert (places[2], places[4]) == (places[3], places[5])


def test_a_reading_is_compared_with_the_training_step():
    reading = pipeline.Reading("arrays", (100.0, 300.0, 200.0), 2e-6, (4.0, 0.5))
    described = pipeline.describe_reading(reading, eaten=50.0)
    assert (described["images_per_second"], described["times_train_step"]) == (200.0, 4.0)
    cells = cells_of(pipeline.make_table([reading], eaten=50.0))
    assert cells == ["arrays", "200", "100", "300", "2 us", "4", "4 s", "500 ms"]


def test_a_checkpoint_has_the_medians_and_all_values():
    found = checkpoint.summarize([3.0, 1.0, 2.0], [], [5.0], [], 2**20)
    assert found["medians"] == {"`save` holds the loop": 2.0, "restore": 5.0}
    assert found["seconds"]["`save` holds the loop"] == [3.0, 1.0, 2.0]
    cells = cells_of(checkpoint.make_table([{"name": "a"} | found]))
    assert cells == ["a", "2 s", "", "5 s", "", "1.0 MiB"]
