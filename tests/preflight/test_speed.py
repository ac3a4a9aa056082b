import jax.numpy as jnp
import pytest

from diffusion_jax.preflight import speed
from diffusion_jax.preflight.speed import Speed, time_steps
from diffusion_jax.training.step import CAUSES


def test_steps_are_timed_with_a_clock_that_only_steps_move(monkeypatch):
    """The first step takes 10 seconds, each other one 2."""
    clock, seen, told = [0.0], [], []

    def take(state, batch, size):
        clock[0] += 10 if state == 0 else 2
        seen.append((state, batch))
        return state + 1, {"cause": jnp.int32(3 if batch == 22 else 0)}

    monkeypatch.setattr(speed.time, "perf_counter", lambda: clock[0])
    found = time_steps(take, 0, [(batch, 1) for batch in range(20, 27)], told.append)
    assert seen == [(i, 20 + i) for i in range(7)]
    assert found.first == 10
    assert sum(found.intervals) == 6 * 2
    assert found.seconds == 2
    assert found.causes == (CAUSES[3],)
    assert told == [1, 2, 3, 4, 5, 6, 7]


def test_the_steps_of_a_call_share_its_time(monkeypatch):
    """Calls of 4, 4 and 2 steps that take 9, 8 and 6 seconds; what the third has beyond its two steps is unused."""
    clock, seconds, told = [0.0], iter((9, 8, 6)), []

    def take(state, batch, size):
        clock[0] += next(seconds)
        return state, {"cause": jnp.int32([0, 1, 0, 0] if batch == 1 else [0, 0, 5, 5])[:4] * (batch > 0)}

    monkeypatch.setattr(speed.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(speed, "AHEAD", 0)
    found = time_steps(take, 0, [(0, 4), (1, 4), (2, 2)], told.append)
    assert found.first == 9
    assert found.intervals == (2, 2, 2, 2, 3, 3)
    assert found.causes == (CAUSES[1],)
    assert told == [4, 8, 10]


def test_the_mean_is_over_the_steps_after_the_first():
    assert Speed(100.0, (1.0, 2.0, 6.0)).seconds == pytest.approx(3.0)
