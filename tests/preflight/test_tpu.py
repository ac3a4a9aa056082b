"""Slices by name; and the real TPU compiler, where it is installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffusion_jax.preflight.tpu import Slice, parse_slice

TESTS = Path(__file__).parents[1]
CONFIG = """
import ml_collections, tiny
def get_config():
    config = tiny.config({"name": "networks:Dense", "width": 4096}, batch_size=32)
    config["loss"]["label_drop"] = 0.0
    config["sampler"]["guidance"] = 1.0
    return ml_collections.ConfigDict(config)
"""


@pytest.mark.parametrize("text", ["v5e", "v5e:", "v5e:2", "v5e:0x2", "v5e:2x2x2x2", "v4:2x2x1", "v5e 2x2", "v5e:2x2\n"])
def test_another_name_is_refused_with_examples(text):
    with pytest.raises(ValueError, match=r"must be one of v5e, v5p, v6e with its shape in chips, such as v5e:2x2"):
        parse_slice(text)


@pytest.mark.parametrize(("text", "chips"), [("v5e:2x4", 8), ("v5p:2x2x1", 4), ("v6e:16x16", 256)])
def test_a_slice_has_the_product_of_its_shape(text, chips):
    assert parse_slice(text).chips == chips
    assert parse_slice(text).name == text


@pytest.mark.parametrize(("chip", "gib"), [("v5e", 16), ("v5p", 95), ("v6e", 32)])
def test_a_program_may_use_nearly_all_memory_of_a_chip(chip, gib):
    assert gib - 1 < Slice(chip, (2, 2)).capacity / 2**30 <= gib


def run_for_tpu(arguments, tmp_path) -> subprocess.CompletedProcess:
    (tmp_path / "config.py").write_text(CONFIG)
    environment = os.environ | {"PYTHONPATH": f"{TESTS.parent}:{TESTS}"}
    environment.pop("JAX_PLATFORMS", None)  # the command chooses
    command = [sys.executable, "-m", "diffusion_jax", "preflight", "--config=config.py", *arguments]
    return subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500, check=False
    )


@pytest.fixture(scope="module")
def libtpu():
    return pytest.importorskip("libtpu", reason='the TPU compiler is not installed: pip install -e ".[tpu-aot]"')


def test_the_programs_compile_for_a_slice(libtpu, tmp_path):
    done = run_for_tpu(["--tpu=v5e:2x2", "--json=out.json"], tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "4 x TPU v5 lite of 15.8 GiB (v5e:2x2, not on this machine)" in done.stdout
    figures = json.loads((tmp_path / "out.json").read_text())
    memory = {(each["name"], each["mesh"]["fsdp"]): each["memory"] for each in figures["programs"]}
    assert memory.keys() == {("train step", 1), ("train step", 4), ("sampler", 1), ("sampler", 4)}
    parameters = 2 * 64 * 4096 * 4  # bytes; both arrays have the compiler's own tiles, so that nothing is padded
    for fsdp in (1, 4):
        assert memory["train step", fsdp]["arguments"] == pytest.approx(4 * parameters / fsdp, rel=0.1)
        assert memory["sampler", fsdp]["arguments"] == pytest.approx(parameters / fsdp, rel=0.1)
    assert figures["speed"] is None


def test_a_slice_that_does_not_exist_is_refused_in_one_line(libtpu, tmp_path):
    done = run_for_tpu(["--tpu=v5e:3x3"], tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: tpu = v5e:3x3: the compiler refuses it (")
    assert done.stderr.endswith("use another, such as v5e:2x2, v6e:4x4 or v5p:2x2x1\n")
    assert done.stderr.count("\n") == 1
