import logging

import pytest

from diffusion_jax.cli.terminal import install_logging, one_line


@pytest.fixture
def log():
    """A logger whose records reach the handlers that the commands install; those of pytest are put back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield logging.getLogger("diffusion_jax.of_this_test")
    for handler in root.handlers[:]:
        root.removeHandler(handler)
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)


@pytest.mark.parametrize("text", ["cat", "3 images in x.png", "café 猫"])
def test_plain_text_is_shown_as_it_is(text):
    assert one_line(text) == text


def test_a_record_is_one_line_whatever_names_it_holds(log, capsys):
    install_logging("process 1: ")
    log.warning("%s: skipped %s", "a\nerror: no", "\x1b[31mred\u202e.png")
    assert capsys.readouterr().err == "process 1: a\\nerror: no: skipped \\x1b[31mred\\u202e.png\n"


def test_a_traceback_keeps_its_lines(log, capsys):
    install_logging()
    try:
        raise KeyError
    except KeyError:
        log.exception("a\x07b")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "a\\x07b"
    assert lines[1].startswith("Traceback")
    assert lines[-1] == "KeyError"
