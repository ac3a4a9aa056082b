"""Which signals a run listens to; that they stop it, wherever it is, is tested with the loop and the commands."""

import os
import signal
import subprocess
import sys

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


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_process_that_leaves_work_behind_says_all_that_it_was_about_to_say(stream):
    """Also a line without its end, such as a progress bar."""
    code = f"""
import sys, threading, time
from diffusion_jax.runtime.stopping import _exit_before
thread = threading.Thread(target=time.sleep, args=(60,), daemon=True)
thread.start()
sys.{stream}.write("half a line")
_exit_before(thread, 143)
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=50)
    assert ended.returncode == 143
    assert getattr(ended, stream).endswith("half a line")


@pytest.mark.parametrize(
    ("number", "error", "code"),
    [
        (signal.SIGINT, KeyboardInterrupt, None),
        (signal.SIGTERM, SystemExit, 143),
        (signal.SIGHUP, SystemExit, 129),
    ],
)
def test_a_signal_that_stopped_the_work_ends_the_program_as_it_would_have_alone(number, error, code):
    stop = Stop()
    with stop.listen():
        os.kill(os.getpid(), number)
        assert stop()
    with pytest.raises(error) as raised:
        stop.raise_signal()
    assert getattr(raised.value, "code", None) == code


def test_work_that_no_signal_stopped_goes_on():
    for stop in (Stop(), Stop(lambda: True)):
        stop()
        stop.raise_signal()
