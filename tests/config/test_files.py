"""Config files, by path and by name."""

import re
from pathlib import Path

import pytest

from diffusion_jax.config.files import config_names, load_config, load_shipped, read_docstring

ROOT = Path(__file__).parents[2]


def test_names_are_those_of_the_shipped_configs():
    assert config_names() == sorted(path.stem for path in (ROOT / "configs").glob("*.py"))


@pytest.mark.parametrize("place", ["digits", "configs/digits.py", str(ROOT / "configs" / "digits.py")])
def test_a_config_is_found_by_name_and_by_path(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config(place).data.name == "Digits"
    assert load_config(f"{place}:smoke").train.steps == 10


def test_a_file_here_comes_before_a_shipped_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "digits.py").write_text("def get_config(): return {'mine': 1}")
    assert load_config("configs/digits.py").mine == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(): return 3", "get_config() must return a ConfigDict, got int"),
        ("def get_config():\n    return {}['x']", "KeyError in line 2: 'x'"),
        ("import nowhere_at_all", "ModuleNotFoundError in line 1: No module named"),
        ("def get_config(:", "SyntaxError in line 1: "),
        ("def get_config(): raise ValueError('too small')", "too small"),
        ("x = 1", "the file must define get_config()"),
    ],
)
def test_the_errors_of_a_file_are_one_line(text, message, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(ValueError, match="^" + re.escape(message)) as error:
        load_config(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", ["nope", "nope:smoke", "configs", "configs/nope.py", "nope.py", ""])
def test_an_unknown_config_lists_the_names(value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="^must be a file or one of cifar10, digits, folder, mnist"):
        load_config(value)


def test_a_shipped_config_is_found_whatever_files_are_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").write_text("def get_config(): return {'mine': 1}")
    assert load_config("digits").to_dict() == {"mine": 1}
    assert load_shipped("digits").data.name == "Digits"


def test_a_docstring_is_read_without_running_the_file():
    assert all(read_docstring(name) for name in config_names())


def test_a_file_is_itself_whatever_was_loaded_before(tmp_path):
    """Python's cache of compiled files knows neither the ending nor a change within a second."""
    for name, steps in (("x.a", 1), ("x.b", 2), ("x.a", 3)):
        (tmp_path / name).write_text(f"def get_config(): return {{'steps': {steps}}}")
        assert load_config(str(tmp_path / name)).steps == steps
    assert not (tmp_path / "__pycache__").exists()


def test_a_file_may_define_dataclasses(tmp_path):
    text = """
from __future__ import annotations
import dataclasses
@dataclasses.dataclass
class Size:
    width: int = 3
def get_config():
    return {"width": Size().width}
"""
    (tmp_path / "mine.py").write_text(text)
    assert load_config(str(tmp_path / "mine.py")).width == 3
