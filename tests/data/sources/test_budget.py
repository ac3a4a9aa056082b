import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from diffusion_jax.data.sources.budget import Budget


def hold_all(limit, sizes, threads=8):
    """Holds each size for a moment, from several threads; returns the most that was held at a time."""
    budget, peaks = Budget(limit), []

    def hold(size):
        with budget.hold(size):
            peaks.append(budget.used)
            time.sleep(0.001)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(hold, sizes))
    assert budget.used == 0
    assert len(peaks) == len(sizes)
    return max(peaks)


def test_threads_hold_at_most_the_limit():
    assert 50 < hold_all(100, [20 + i % 60 for i in range(100)]) <= 100


def test_more_than_the_limit_is_held_alone():
    assert hold_all(100, [150] * 20) == 150


def test_what_fits_is_held_together():
    budget, barrier = Budget(100), threading.Barrier(4)

    def hold(_):
        with budget.hold(25):
            barrier.wait(10)  # passed by all four together, or by none

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(hold, range(4)))


def test_an_error_gives_the_memory_back():
    budget = Budget(100)
    with pytest.raises(KeyError), budget.hold(100):
        raise KeyError
    assert budget.used == 0


def test_waiting_is_told_once(caplog):
    caplog.set_level(logging.INFO)
    hold_all(100, [60] * 8)
    assert [record.getMessage() for record in caplog.records] == [
        "large images: fewer are decoded at a time, within a budget of 100 bytes of memory"
    ]
