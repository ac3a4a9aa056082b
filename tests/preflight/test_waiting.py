"""Progress on a terminal and in a file, with a clock that runs fast."""

import io
import time

import pytest

from diffusion_jax.preflight import waiting
from diffusion_jax.preflight.waiting import Waiting
from diffusion_jax.runtime.stopping import Stop


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_file_gets_a_line_after_twice_the_time(monkeypatch):
    monkeypatch.setattr("sys.stderr", out := io.StringIO())
    monkeypatch.setattr(waiting, "_FIRST_LINE", 0.05)
    assert Waiting(Stop())("compiling the sampler", lambda: time.sleep(0.3) or 5) == 5
    lines = out.getvalue().splitlines()
    assert set(lines) == {"compiling the sampler: 0 s"}
    assert 1 <= len(lines) <= 3  # after 0.05, 0.1 and 0.2 seconds


def test_a_terminal_gets_one_line_that_goes_away(monkeypatch):
    monkeypatch.setattr("sys.stderr", out := Terminal())
    assert Waiting(Stop()).count("step", 3, lambda tell: (tell(2), time.sleep(0.8))[0]) is None
    text = out.getvalue()
    assert "\n" not in text
    assert text.startswith(("\rstep 2 of 3: 0 s", "\rstep 2 of 3: 1 s"))
    assert text.endswith("\r" + " " * len("step 2 of 3: 0 s") + "\r")


def test_short_work_is_not_worth_a_line(monkeypatch):
    for stream in (io.StringIO(), Terminal()):
        monkeypatch.setattr("sys.stderr", stream)
        Waiting(Stop())("adding", lambda: None)
        assert stream.getvalue() == ""


def test_nothing_is_shown_unless_enabled_and_errors_pass(monkeypatch):
    monkeypatch.setattr("sys.stderr", out := io.StringIO())
    monkeypatch.setattr(waiting, "_FIRST_LINE", 0.01)

    def fail():
        time.sleep(0.1)
        raise ValueError("too large")

    with pytest.raises(ValueError, match="too large"):
        Waiting(Stop(), enabled=False)("compiling", fail)
    assert out.getvalue() == ""
