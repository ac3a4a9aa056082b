import dataclasses
import itertools
import json
import os
import signal
import threading
import time

import jax
import numpy as np
import optax
import pytest
import tiny
from event_files import events
from slow import slow

import diffusion_jax as dj
from diffusion_jax.runtime.stopping import Stop
from diffusion_jax.runtime.writers import MetricsWriter
from diffusion_jax.training.loop import Actions, fit
from diffusion_jax.training.metrics_log import MetricsLog, TrainingError
from diffusion_jax.training.plan import Due, Plan
from diffusion_jax.training.step import CAUSES


class Value:
    """A number on a pretended device; it notes when the host waits for it and reads it."""

    def __init__(self, value: float, step: int, reads: list, waits: list):
        self.value, self.step, self.reads, self.waits = value, step, reads, waits

    def block_until_ready(self):
        self.waits.append(self.step)

    def copy_to_host_async(self):
        pass

    def __array__(self, *args, **kwargs):
        self.reads.append(self.step)
        return np.float32(self.value)


class State:
    """A state on a pretended device; it notes when the host waits for it."""

    def __init__(self, recorder):
        self.recorder = recorder

    def block_until_ready(self):
        self.recorder.events.append(("wait", self.recorder.of("step")[-1]))


class Recorder:
    """Stands in for the step and the actions, and notes what the loop does."""

    def __init__(self):
        self.events, self.reads, self.waits, self.stop_at = [], [], [], None
        self.on_save = lambda: None
        self.missing = Due()
        self.skip, self.skipped = (), 0  # the steps whose batch is skipped

    def step(self, state, batch, key):
        step = batch + 1
        self.events.append(("step", step))
        self.skipped += step in self.skip
        cause = CAUSES.index("the loss is not finite") if step in self.skip else 0
        values = {"loss": 10.0 * step, "grad_norm": 1.0, "skipped": self.skipped, "cause": cause}
        return state, {name: Value(x, step, self.reads, self.waits) for name, x in values.items()}

    def actions(self) -> Actions:
        def evaluate(state):
            self.events.append(("eval", self.of("step")[-1]))
            return {"eval_loss": 1.0}

        def save(state, step):
            self.events.append(("save", step))
            self.on_save()

        return Actions(
            evaluate=evaluate,
            save_samples=lambda state, step: self.events.append(("sample", step)),
            save=save,
            missing=self.missing,
        )

    def fit(self, folder, start=0, **plan):
        plan = Plan(**({"steps": 10, "batch_size": 4} | plan))
        stop = Stop(lambda: self.of("step")[-1:] == [self.stop_at])
        with MetricsWriter(folder, start) as writer:
            batches = itertools.count(start)
            _, step = fit(State(self), self.step, batches, None, plan, writer, self.actions(), start, stop)
        return step

    def of(self, kind):
        return [step for name, step in self.events if name == kind]


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_everything_happens_when_it_is_due(tmp_path):
    recorder = Recorder()
    plan = {"log_every": 4, "eval_every": 5, "sample_every": 3, "checkpoint_every": 4}
    assert recorder.fit(tmp_path, **plan) == 10
    assert recorder.of("step") == list(range(1, 11))
    assert recorder.of("eval") == [5, 10]
    assert recorder.of("sample") == [3, 6, 9, 10]
    assert recorder.of("save") == [4, 8, 10]


def test_the_bar_says_compiling_until_the_first_step_only(tmp_path, capsys):
    Recorder().fit(tmp_path, log_every=10)
    bar = capsys.readouterr().err
    assert "step 0/10, compiling:" in bar
    assert "step 1/10:" in bar


def test_zero_means_only_at_the_end(tmp_path):
    recorder = Recorder()
    recorder.fit(tmp_path, log_every=0, eval_every=0, sample_every=0, checkpoint_every=0)
    assert {recorder.of(kind)[0] for kind in ("eval", "sample", "save")} == {10}
    assert len(recorder.events) == 14  # 10 steps, a wait and the three


def test_the_host_waits_for_the_device_before_all_else_and_only_then(tmp_path):
    """Programs beside a step in flight have stopped emulated devices in its all-reduce."""
    recorder = Recorder()
    recorder.fit(tmp_path, log_every=2, eval_every=5, sample_every=3, checkpoint_every=4)
    assert recorder.of("wait") == [3, 4, 5, 6, 8, 9, 10]
    kinds = [kind for kind, _ in recorder.events]
    for before, kind in itertools.pairwise(kinds):
        assert kind in ("step", "wait") or before != "step"


def test_the_host_is_at_most_two_steps_ahead_so_that_a_signal_waits_for_no_more(tmp_path):
    recorder, done_before = Recorder(), {}

    def step(state, batch, key):
        done_before[batch + 1] = max(recorder.waits, default=0)
        return Recorder.step(recorder, state, batch, key)

    recorder.step = step
    recorder.fit(tmp_path, log_every=0, eval_every=0, sample_every=0, checkpoint_every=0)
    assert done_before == {k: max(0, k - 3) for k in range(1, 11)}


def test_a_checkpoint_finds_all_metrics_up_to_its_step_in_the_record(tmp_path):
    """So that a run that is killed and resumed there has them too."""
    recorder, found = Recorder(), []
    recorder.on_save = lambda: found.append([x["step"] for x in lines(tmp_path)])
    recorder.fit(tmp_path, log_every=2, eval_every=0, sample_every=0, checkpoint_every=4)
    assert found == [[2, 4], [2, 4, 6, 8], [2, 4, 6, 8, 10]]


def test_the_record_is_in_order_and_marks_what_is_off_schedule(tmp_path):
    Recorder().fit(tmp_path, log_every=4, eval_every=8)
    kinds = [(x["step"], "loss" in x, x.get("final", False)) for x in lines(tmp_path)]
    assert kinds == [
        (4, True, False),
        (8, True, False),
        (8, False, False),
        (10, True, True),
        (10, False, True),
    ]
    assert [x["loss"] for x in lines(tmp_path) if "loss" in x] == [40.0, 80.0, 100.0]


def test_the_host_reads_only_what_it_logs_and_a_log_point_late(tmp_path):
    """Reading a loss as soon as it is asked for stalls the device."""
    recorder = Recorder()
    steps_done_at_read = []
    recorder.reads = type(
        "Reads", (list,), {"append": lambda s, x: steps_done_at_read.append((x, recorder.events[-1][1]))}
    )()
    recorder.fit(tmp_path, log_every=3, eval_every=0, sample_every=0, checkpoint_every=0)
    assert sorted({step for step, _ in steps_done_at_read}) == [3, 6, 9, 10]
    assert (3, 6) in steps_done_at_read
    assert (6, 9) in steps_done_at_read


def test_no_transfer_to_the_host_between_log_points(tmp_path):
    """Implicit transfers are an error on an accelerator. On a CPU the guard has no effect; Recorder has."""
    model, tx = tiny.Affine(), optax.adamw(1e-2)
    step = dj.make_train_step(model, tx, tiny.loss())
    state = dj.TrainState.create(jax.random.key(0), model, tx, (4, 4, 1))
    batches = (tiny.batch(seed=k) for k in range(20))
    plan = Plan(steps=12, batch_size=16, log_every=5)
    actions = Actions(lambda state: {"eval_loss": 0.0}, lambda *_: None, lambda *_: None)
    with (
        MetricsWriter(tmp_path) as writer,
        jax.transfer_guard_device_to_host("disallow"),
    ):
        state, _ = fit(state, step, batches, jax.random.key(1), plan, writer, actions)
    assert step._cache_size() == 1  # one compile in the whole run
    assert int(state.step) == 12


def test_stopping_saves_where_it_stands(tmp_path):
    recorder = Recorder()
    recorder.stop_at = 7
    assert recorder.fit(tmp_path, checkpoint_every=5) == 7
    assert recorder.of("save") == [5, 7]


def test_stopping_at_a_checkpoint_saves_once(tmp_path):
    recorder = Recorder()
    recorder.stop_at = 5
    recorder.fit(tmp_path, checkpoint_every=5)
    assert recorder.of("save") == [5]


def test_resuming_goes_on_with_the_next_batch(tmp_path):
    recorder = Recorder()
    recorder.fit(tmp_path, start=6)
    assert recorder.of("step") == [7, 8, 9, 10]


def test_a_finished_run_does_nothing_more(tmp_path):
    recorder = Recorder()
    assert recorder.fit(tmp_path, start=10) == 10
    assert recorder.events == []


def test_a_checkpoint_is_saved_before_anything_that_could_fail(tmp_path):
    recorder = Recorder()
    recorder.fit(tmp_path, eval_every=5, sample_every=5, checkpoint_every=5)
    for step in (5, 10):
        assert [kind for kind, at in recorder.events if at == step] == ["step", "wait", "save", "eval", "sample"]


def test_what_an_interrupted_run_left_undone_comes_first(tmp_path):
    recorder = Recorder()
    recorder.events.append(("step", 6))
    recorder.missing = Due(evaluate=True, sample=True)
    recorder.fit(tmp_path, start=6, eval_every=3, sample_every=3)
    assert recorder.events[1:4] == [("eval", 6), ("sample", 6), ("step", 7)]
    assert [x["step"] for x in lines(tmp_path)][:2] == [6, 9]
    assert "final" not in lines(tmp_path)[0]


@pytest.mark.parametrize("kind", ["evaluate", "save_samples"])
@pytest.mark.parametrize("error", [OSError("no space left"), KeyError("x"), ZeroDivisionError()])
def test_a_side_product_that_fails_is_one_warning(tmp_path, caplog, kind, error):
    recorder = Recorder()

    def fail(*_):
        raise error

    actions = recorder.actions
    recorder.actions = lambda: dataclasses.replace(actions(), **{kind: fail})
    assert recorder.fit(tmp_path, eval_every=4, sample_every=4, checkpoint_every=4) == 10
    assert recorder.of("save") == [4, 8, 10]
    messages = [record.message for record in caplog.records]
    assert len(messages) == 3
    assert all(type(error).__name__ in message for message in messages)
    assert messages[0].startswith("step 4: ")


# Skipped batches


def test_skipped_batches_are_named_with_their_cause(tmp_path, caplog):
    recorder = Recorder()
    recorder.skip = (2, 5, 6)
    recorder.fit(tmp_path, log_every=2)
    messages = [record.message for record in caplog.records]
    assert messages == [
        "step 2: skipped 1 because the loss is not finite (batches 1); 1 so far",
        "step 6: skipped 2 because the loss is not finite (batches 4, 5); 3 so far",
    ]
    assert all("cause" not in line for line in lines(tmp_path))


@pytest.mark.parametrize("log_every", [0, 1, 3, 1000])
@pytest.mark.parametrize("limit", [1, 4, 130])
def test_too_many_skipped_in_a_row_stop_the_run(tmp_path, limit, log_every):
    recorder = Recorder()
    recorder.skip = range(20, 1000)
    with pytest.raises(TrainingError, match=f"step {19 + limit}: {limit} batches in a row .* loss is not finite"):
        recorder.fit(tmp_path, steps=1000, log_every=log_every, max_skipped=limit)
    # Noticed within 200 steps even if nothing is logged.
    assert recorder.of("step")[-1] <= 19 + limit + max(200, 2 * log_every)


def test_skipped_batches_that_are_not_in_a_row_do_not_stop_it(tmp_path):
    recorder = Recorder()
    recorder.skip = [step for step in range(1, 101) if step % 4]
    assert recorder.fit(tmp_path, steps=100, log_every=7, max_skipped=4) == 100


def test_zero_is_no_limit(tmp_path):
    recorder = Recorder()
    recorder.skip = range(1, 500)
    assert recorder.fit(tmp_path, steps=300, max_skipped=0) == 300


# Signals


@pytest.mark.parametrize("steps", [1, 19, 20])
def test_a_short_run_stops_where_half_of_its_batches_were_skipped_in_a_row(tmp_path, steps):
    recorder, half = Recorder(), -(-steps // 2)
    recorder.skip = range(steps - half + 1, steps + 1)
    with pytest.raises(TrainingError, match=f"{half} batches in a row were skipped"):
        recorder.fit(tmp_path / "a", steps=steps, log_every=3)
    sound = Recorder()
    sound.skip = range(steps - half + 2, steps + 1)
    assert sound.fit(tmp_path / "b", steps=steps, log_every=3) == steps


@pytest.mark.parametrize("number", [signal.SIGTERM, *slow(signal.SIGINT, signal.SIGHUP)])
@pytest.mark.parametrize("place", ["batch", "compile", "evaluate", "sample"])
def test_a_signal_stops_at_once_wherever_the_loop_is(tmp_path, number, place, request):
    """The work that the loop waits for takes a minute; it is left behind, and what was done is saved."""
    recorder, released = Recorder(), threading.Event()
    # The suite may run where they are ignored, such as under nohup, and then the loop ignores them too.
    default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    before = signal.signal(number, default)
    request.addfinalizer(lambda: signal.signal(number, before))

    def interrupted(*_):
        os.kill(os.getpid(), number)
        released.wait(60)

    def batches():
        for k in range(100):
            if place == "batch" and k == 3:
                interrupted()
            yield k

    def step(state, batch, key):
        if place == "compile":
            interrupted()
        return recorder.step(state, batch, key)

    actions = recorder.actions()
    if place in ("evaluate", "sample"):
        name = "evaluate" if place == "evaluate" else "save_samples"
        actions = dataclasses.replace(actions, **{name: interrupted})
    plan, stop = Plan(steps=10, batch_size=4, eval_every=3, sample_every=3, checkpoint_every=100), Stop()
    start = time.monotonic()
    with MetricsWriter(tmp_path) as writer, stop.listen():
        _, done = fit(State(recorder), step, batches(), None, plan, writer, actions, 0, stop)
    assert time.monotonic() - start < 10
    assert stop.reason == number
    assert done == (0 if place == "compile" else 3)
    assert recorder.of("save") == ([] if place == "compile" else [3])
    released.set()


def test_the_speed_is_that_of_the_steps_whatever_comes_between_them(tmp_path, monkeypatch):
    """A step takes 1 second; saves, evaluations and samples, also those that are no log points, take 100."""
    recorder, clock = Recorder(), [0.0]

    class Slow(list):
        def append(self, event):
            clock[0] += 1.0 if event[0] == "step" else 100.0 if event[0] != "wait" else 0.0
            super().append(event)

    recorder.events = Slow()
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    recorder.fit(tmp_path, log_every=2, eval_every=4, sample_every=3, checkpoint_every=5)
    found = {step: value.simple_value for tag, step, value in events(tmp_path) if tag == "images_per_second"}
    assert found == dict.fromkeys([2, 4, 6, 8, 10], 4.0)


def fit_in_calls(folder, most, stop_at=None, start=0, state=None):
    """A run of 17 steps whose batches 6 and 7 are not finite; returns (the state, the steps of checkpoints)."""
    model, tx, saved = tiny.Affine(), optax.adamw(1e-2), []
    plan = Plan(steps=17, batch_size=16, log_every=4, eval_every=6, checkpoint_every=5, steps_per_call=most)
    step = dj.make_train_step(model, tx, tiny.loss())
    state = dj.TrainState.create(jax.random.key(0), model, tx, (4, 4, 1)) if state is None else state

    def batch(k):
        drawn = jax.device_get(tiny.batch(seed=k))
        return drawn | {"image": drawn["image"] * (np.nan if k in (6, 7) else 1)}

    def read(size, first):
        parts = [batch(first + i) for i in range(size)]
        parts += [batch(99)] * (most - size)
        return parts[0] if most == 1 else {name: np.stack([part[name] for part in parts]) for name in parts[0]}

    sizes = list(plan.calls(start))
    firsts = itertools.accumulate(sizes, initial=start)
    actions = Actions(
        evaluate=lambda state: {"eval_loss": float(state.params["w"])},
        save_samples=lambda *_: None,
        save=lambda state, step: saved.append((step, jax.device_get(state.params))),
    )
    stop = Stop(lambda: stop_at is not None and bool(saved) and saved[-1][0] >= stop_at)
    folder.mkdir(exist_ok=True)
    with MetricsWriter(folder, start) as writer:
        calls = (read(size, first) for size, first in zip(sizes, firsts, strict=False))
        state, _ = fit(state, step, calls, jax.random.key(1), plan, writer, actions, start, stop)
    return state, saved


@pytest.mark.parametrize("most", [3, 100])
def test_several_steps_per_call_change_nothing(most, tmp_path, caplog):
    state, saved = fit_in_calls(tmp_path / "single", 1)
    warnings = [record.getMessage() for record in caplog.records]
    caplog.clear()
    other, other_saved = fit_in_calls(tmp_path / "several", most)
    assert [step for step, _ in saved] == [5, 10, 15, 17]
    jax.tree.map(np.testing.assert_array_equal, (state, saved), (other, other_saved))
    assert lines(tmp_path / "single") == lines(tmp_path / "several")
    assert [record.getMessage() for record in caplog.records] == warnings
    assert any("2 because the images are not finite (batches 6, 7)" in text for text in warnings)


def test_a_stopped_run_goes_on_with_other_calls(tmp_path):
    whole, saved = fit_in_calls(tmp_path / "whole", 1)
    state, first = fit_in_calls(tmp_path / "parts", 3, stop_at=5)
    assert [step for step, _ in first] == [5]
    state, rest = fit_in_calls(tmp_path / "parts", 4, start=5, state=state)
    jax.tree.map(np.testing.assert_array_equal, (whole, saved), (state, first + rest))
    assert lines(tmp_path / "whole") == lines(tmp_path / "parts")


def test_skipped_batches_are_looked_for_as_often_with_calls_of_many_steps(tmp_path):
    """Every batch is skipped, and nothing is logged: the run must not go on for hundreds of calls."""
    plan = Plan(steps=10_000, batch_size=4, log_every=0, eval_every=0, checkpoint_every=0, steps_per_call=50)
    causes = np.full(50, CAUSES.index("the loss is not finite"))

    def add_calls(log):
        for step in range(50, 400, 50):
            log.add(step, {"skipped": np.arange(step - 49, step + 1), "cause": causes}, 50)

    with (
        MetricsWriter(tmp_path) as writer,
        MetricsLog(writer, plan, 0) as log,
        pytest.raises(TrainingError, match="100 batches in a row"),
    ):
        add_calls(log)
