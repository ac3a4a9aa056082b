"""What is read cannot run: no pickle on any load path, and nothing that a run's files name is imported."""

import ast
import contextlib
import json
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from prepared import one_line

import diffusion_jax as dj
from diffusion_jax.config.components import ConfigError
from diffusion_jax.runtime.errors import CheckpointError
from diffusion_jax.runtime.fingerprint import add_hash

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("diffusion_jax", "configs", "benchmarks", "docs")
FILES = [*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))]

# These load pickles, or run what they read.
MODULES = {
    "pickle",
    "_pickle",
    "cPickle",
    "cloudpickle",
    "dill",
    "joblib",
    "marshal",
    "shelve",
    "torch",
    "runpy",
    "code",
}
# Measured beside ours. PyTorch's own reader is refused all the same, unless it is told to read weights alone.
MEASURED = {"torch": "benchmarks/speed/"}
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load"}
# Imports by name: a user's own components, behind allow_code; the config that a user runs; optional packages.
IMPORTERS = {"config/components.py", "config/files.py", "verify/loop.py"}


def refusals(source: str, path: str) -> list[str]:
    """What in a file could run what it reads."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            banned = MODULES - {name for name, folder in MEASURED.items() if f"/{folder}" in path}
            found += [name for name in names if name.split(".")[0] in banned]
            names = [name for name in names if name != "importlib.metadata"]  # which only reads versions
            found += [name for name in names if name.startswith("importlib") and not path.endswith(tuple(IMPORTERS))]
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            allowed = [keyword.value for keyword in node.keywords if keyword.arg == "allow_pickle"]
            if called in ("np.load", "numpy.load", "np.lib.format.read_array"):
                found += [] if [ast.unparse(value) for value in allowed] == ["False"] else [called]
            weights_only = any(ast.unparse(keyword) == "weights_only=True" for keyword in node.keywords)
            found += [called] if called in CALLS or (called == "torch.load" and not weights_only) else []
    return found


def test_nothing_that_is_read_is_run():
    assert len(FILES) > 150
    assert {str(path): found for path in FILES if (found := refusals(path.read_text(), str(path)))} == {}


@pytest.mark.parametrize(
    "source",
    [
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "import pickle",
        "from joblib import load",
        "eval(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "import torch",
    ],
)
def test_what_would_run_is_found(source):
    assert refusals(f"def f():\n    {source}", "mine.py")


# A run whose JSON is hostile


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    parent = tmp_path_factory.mktemp("doors")
    with tarfile.open(ROOT / "tests" / "data" / "run_0_1_0.tar.xz") as archive:
        archive.extractall(parent, filter="data")
    return parent / "run_0_1_0"


@pytest.fixture
def hostile(sound, tmp_path, monkeypatch):
    """A copy of the run beside a module that leaves a mark when it is imported."""
    (tmp_path / "hostile_module.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Mine: pass")
    monkeypatch.syspath_prepend(tmp_path)
    yield Path(shutil.copytree(sound, tmp_path / "run"))
    assert not (tmp_path / "ran").exists()
    assert "hostile_module" not in sys.modules


def change_description(run: Path, change) -> None:
    """Changes the description in the checkpoint and makes its hash right again, as an attacker would."""
    path = run / "checkpoints" / "6" / "meta" / "metadata"
    meta = json.loads(json.loads(path.read_text())["content"])
    change(meta["description"])
    path.write_text(json.dumps(add_hash(meta)))


FIELDS = ["data", "model", "schedule", "prediction", "loss", "loss.weighting", "optimizer", "sampler", "sampler.grid"]


@pytest.mark.parametrize("name", ["hostile_module:Mine", "os:system"])
@pytest.mark.parametrize("field", FIELDS)
def test_a_checkpoint_cannot_import_what_it_names(hostile, field, name):
    def change(description):
        component = description["config"]
        for key in field.split("."):
            component = component[key]
        component["name"] = name

    change_description(hostile, change)
    with pytest.raises(ConfigError, match=f'config.{field}.name = "{name}": .*may not import code') as error:
        dj.load(hostile)
    one_line(error)


def test_the_handlers_that_a_checkpoint_names_are_not_imported(hostile):
    path = hostile / "checkpoints" / "6" / "_CHECKPOINT_METADATA"
    metadata = json.loads(path.read_text())
    metadata["item_handlers"] = dict.fromkeys(metadata["item_handlers"], "hostile_module.Mine")
    path.write_text(json.dumps(metadata))
    assert dj.load(hostile).step == 6


def test_the_leaf_types_that_a_checkpoint_names_are_not_imported(hostile):
    for path in (hostile / "checkpoints" / "6").glob("*/_METADATA"):
        path.write_text(path.read_text().replace('"jax.Array"', '"hostile_module.Mine"'))
    with contextlib.suppress(CheckpointError):
        dj.load(hostile)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("config", None),
        ("config", {}),
        ("config", {"model": []}),
        ("data", 3),
        ("image_shape", None),
        ("image_shape", [8, 8]),
        ("image_shape", [8, 8, 0]),
        ("image_shape", [8, 8, 2**40]),
        ("num_classes", -1),
        ("num_classes", "10"),
        ("class_names", None),
        ("class_names", "ab"),
        ("class_names", [{}, None]),
    ],
)
def test_a_description_of_another_form_is_refused_by_name(hostile, field, value):
    change_description(hostile, lambda description: description.update({field: value}))
    with pytest.raises(ConfigError, match=f"^{field}( = |\\.)") as error:
        dj.load(hostile)
    one_line(error)
    config = json.loads((hostile / "config.json").read_text())["config"]
    (hostile / "config.json").unlink()
    with pytest.raises(ConfigError, match=f"^{field}( = |\\.)"):  # it would be rebuilt from the checkpoint
        dj.train(config, hostile)


@pytest.mark.parametrize("part", ["description", "leaves"])
@pytest.mark.parametrize("value", [None, [], "x"])
def test_a_description_without_its_parts_is_damaged(hostile, part, value):
    path = hostile / "checkpoints" / "6" / "meta" / "metadata"
    meta = json.loads(json.loads(path.read_text())["content"])
    path.write_text(json.dumps(add_hash(meta | {part: value})))
    with pytest.raises(CheckpointError, match="its description is not that of a run") as error:
        dj.load(hostile)
    one_line(error)


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 100_000])
def test_json_of_any_depth_does_not_end_a_run_with_a_traceback(hostile, text):
    config = json.loads((hostile / "config.json").read_text())["config"]
    (hostile / "config.json").write_text(text)
    with (hostile / "metrics.jsonl").open("a") as file:
        file.write(text + "\n")
    dj.train(config | {"train": config["train"] | {"steps": 7}}, hostile, should_stop=lambda: True)
    assert json.loads((hostile / "config.json").read_text())["data"]


def test_class_names_do_not_lead_out_of_a_directory(hostile, tmp_path):
    names = [f"../../escaped/{i}" for i in range(10)]
    change_description(hostile, lambda description: description.update(class_names=names))
    run, before = dj.load(hostile), set(tmp_path.rglob("*"))
    dj.images.save_folder(np.zeros((10, 8, 8, 1)), tmp_path / "out", labels=[run.class_name(i) for i in range(10)])
    written = set(tmp_path.rglob("*")) - before - {tmp_path / "out"}
    assert len(written) == 10
    assert {path.parent for path in written} == {tmp_path / "out"}
