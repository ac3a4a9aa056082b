"""Before a long training on a CPU a warning says about how long it takes."""

import jax
import jax.numpy as jnp
import optax
import pytest
import tiny

import diffusion_jax as dj
from diffusion_jax.training import estimate
from diffusion_jax.training.estimate import format_seconds, warn_of_slow_cpu

BATCH = {"image": jax.ShapeDtypeStruct((16, 4, 4, 1), jnp.uint8)}


class Matrix:
    """Multiplies each image with a matrix; as many parameters more as asked for, which cost nothing."""

    def __init__(self, others: int):
        self.others = others

    def init(self, key, x, time, labels):
        return {"w": jnp.eye(16), "others": jnp.zeros(self.others)}

    def apply(self, params, x, time, labels, train=False, rngs=None):
        return (x.reshape(len(x), 16) @ params["w"]).reshape(x.shape) + 0 * params["others"][0]


def warning(caplog, others, steps=100_000):
    model, tx = Matrix(others), optax.sgd(0.1)
    state = dj.TrainState.create(jax.random.key(0), model, tx, (4, 4, 1))
    step = dj.make_train_step(model, tx, tiny.loss())
    warn_of_slow_cpu(step, state, BATCH, jax.random.key(1), steps)
    return caplog.text


def test_only_large_networks_are_warned_of(caplog):
    assert warning(caplog, 10_000_000 - 256) == ""
    assert "10 million parameters on a CPU: a step will take about" in warning(caplog, 10_000_001 - 256)


def test_the_time_is_that_of_the_operations(caplog, monkeypatch):
    """Each parameter is updated, decayed into the average and checked, some 10 operations; 1 000 of them a second."""
    monkeypatch.setattr(estimate, "_measure_speed", lambda: 1_000 * 12e6)
    found = warning(caplog, 12_000_000, steps=1_000_000)
    step, whole = float(found.split("about ")[1].split(" seconds")[0]), found.split("about ")[2].split(";")[0]
    assert 0.003 < step < 0.03
    number, unit = whole.split()
    assert float(number) * {"minutes": 60, "hours": 3600}[unit] == pytest.approx(1_000_000 * step, rel=0.3)


def test_the_measured_speed_is_one_of_this_planet():
    assert 1e8 < estimate._measure_speed() < 1e14


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.04 seconds"), (119, "119 seconds"), (120, "2 minutes"), (86_400, "24 hours"), (4e6, "46 days")],
)
def test_durations_are_written_with_one_unit(seconds, text):
    assert format_seconds(seconds) == text


def test_a_training_step_reaches_a_part_of_the_speed_of_a_product(monkeypatch):
    """By a clock in which the products take 3, 2 and 4 seconds; the best counts, and no step is as fast as that."""
    ticks = iter([0.0, 3.0, 10.0, 12.0, 20.0, 24.0])
    monkeypatch.setattr(estimate.time, "perf_counter", lambda: next(ticks))
    monkeypatch.setattr(estimate, "_SIDE", 8)
    fastest = 2 * 8**3 / 2.0
    assert fastest / 4 < estimate._measure_speed() < fastest
