"""Which signals a run listens to; that they stop it, wherever it is, is tested with the loop and the commands."""

import os
import signal

import pytest

from diffusion_jax.runtime.stopping import Stop


@pytest.fixture
def own_handler():
    received = []
    before = signal.signal(signal.SIGINT, lambda number, _: received.append(number))
    yield received
    signal.signal(signal.SIGINT, before)


def test_a_handler_of_the_caller_stays_also_after_another_signal(own_handler):
    stop = Stop()
    with stop.listen():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop()
    os.kill(os.getpid(), signal.SIGINT)
    assert stop.reason == signal.SIGTERM
    assert own_handler == [signal.SIGINT] * 2


def test_the_handlers_are_as_before_after_the_block():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Stop().listen():
        os.kill(os.getpid(), signal.SIGTERM)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
