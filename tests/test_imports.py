"""The arrows of the design: who may import whom, read from the source."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "diffusion_jax"

# From the bottom up: a file may import its own folder and what stands in an earlier row. The files at the
# package's top are rows of their own: edit over workdir over figures over experiment over run over commands
# over components.
LAYERS = [
    "version",
    "arguments",
    "process",
    "runtime",
    "data",
    "models",
    "sampling",
    "verify",
    "interop",
    "evaluation",
    "training",
    "components",
    "commands",
    "run",
    "experiment",
    "figures",
    "workdir",
    "edit",
    "__init__",
    "configs",
    "scripts",
]
IMPORTS_NOTHING_OF_OURS = {"version", "arguments", "components", "commands", "configs"}
# A third-party package -> the only folder or file that may import it.
CONFINED = {
    "flax": f"{PACKAGE}/models/",
    "grain": f"{PACKAGE}/data/",
    "tensorflow_datasets": f"{PACKAGE}/data/",
    "orbax": f"{PACKAGE}/runtime/checkpoint.py",
}
FORBIDDEN = {"tensorflow", "torch"}
ALLOWED_IN_PROCESS = {"jax", "numpy"} | set(sys.stdlib_module_names)


def imported(tree: ast.AST, path: str) -> Iterator[str]:
    """Dotted names of the modules that a file imports, at any depth; relative ones are resolved."""
    parents = Path(path).with_suffix("").parts[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            # `from package import name` reaches a module, or a name of the package's own __init__.
            yield from (f"{module}.{alias.name}" for alias in node.names)


def layer_of_file(path: str) -> str:
    parts = Path(path).with_suffix("").parts
    if parts[-1] == "__main__":
        return "scripts"  # a command, like train.py
    if parts[0] == PACKAGE:
        return parts[1]
    return "configs" if parts[0] == "configs" else "scripts"


def layer_of_module(module: str) -> str | None:
    """The layer of a module of ours, None for anybody else's."""
    parts = module.split(".")
    if parts[0] == "configs":
        return "configs"
    if parts[0] != PACKAGE:
        return None
    return parts[1] if len(parts) > 1 and parts[1] in LAYERS else "__init__"


def offences(source: str, path: str) -> list[str]:
    """What is wrong with the imports of one file, `path` from the repository's root."""
    mine = layer_of_file(path)
    if mine not in LAYERS:
        return [f"{path}: {mine} is no layer of the design"]
    found = []
    for module in imported(ast.parse(source), path):
        top, theirs = module.split(".")[0], layer_of_module(module)
        if theirs is not None and mine in IMPORTS_NOTHING_OF_OURS:
            found.append(f"{path}: {mine} imports {module}, must import nothing of ours")
        elif theirs not in (None, mine) and LAYERS.index(theirs) >= LAYERS.index(mine):
            found.append(f"{path}: {mine} imports {module} above it")
        if top in FORBIDDEN:
            found.append(f"{path}: imports {module}")
        if top in CONFINED and not path.startswith(CONFINED[top]):
            found.append(f"{path}: imports {module}, which only {CONFINED[top]} may")
        if mine == "process" and theirs is None and top not in ALLOWED_IN_PROCESS:
            found.append(f"{path}: process imports {module}")
    return found


def checked_files() -> list[str]:
    patterns = (f"{PACKAGE}/**/*.py", "configs/**/*.py", "train.py", "sample.py")
    paths = [path for pattern in patterns for path in ROOT.glob(pattern)]
    return sorted(path.relative_to(ROOT).as_posix() for path in paths)


@pytest.mark.parametrize("path", checked_files())
def test_imports_point_down(path):
    assert offences((ROOT / path).read_text(), path) == []


def test_the_whole_package_is_read():
    layers = {layer_of_file(path) for path in checked_files()}
    assert layers >= set(LAYERS) - {"evaluation"}
    assert len(checked_files()) > 20


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("diffusion_jax/process/forward.py", "from diffusion_jax.sampling import grids"),
        ("diffusion_jax/process/forward.py", "from ..sampling import grids"),
        ("diffusion_jax/process/forward.py", "import einops"),
        ("diffusion_jax/process/forward.py", "import diffusion_jax as dj"),
        ("diffusion_jax/sampling/sample.py", "def f():\n    import diffusion_jax.training.ema"),
        ("diffusion_jax/training/loop.py", "from diffusion_jax.run import Run"),
        ("diffusion_jax/run.py", "from diffusion_jax.experiment import Experiment"),
        ("diffusion_jax/components.py", "from diffusion_jax.process import schedules"),
        ("diffusion_jax/training/step.py", "import flax.linen as nn"),
        ("diffusion_jax/training/step.py", "from grain import python"),
        ("diffusion_jax/runtime/mesh.py", "import orbax.checkpoint as ocp"),
        ("diffusion_jax/workdir.py", "import tensorflow_datasets"),
        ("diffusion_jax/data/sources.py", "import tensorflow as tf"),
        ("diffusion_jax/models/unet.py", "from torch import nn"),
        ("diffusion_jax/helpers/x.py", ""),
        ("configs/a.py", "import diffusion_jax"),
        ("diffusion_jax/run.py", "from configs import digits"),
        ("diffusion_jax/interop/imported.py", "from diffusion_jax import workdir"),
    ],
)
def test_a_bad_import_is_found(path, source):
    assert len(offences(source, path)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("diffusion_jax/process/forward.py", "import math\nimport jax.numpy as jnp\nimport numpy"),
        ("diffusion_jax/process/forward.py", "from . import schedules"),
        ("diffusion_jax/training/step.py", "from diffusion_jax.training import ema\nimport optax"),
        ("diffusion_jax/models/unet.py", "import flax.linen as nn"),
        ("diffusion_jax/runtime/checkpoint.py", "import orbax.checkpoint"),
        ("diffusion_jax/data/pipeline.py", "import grain\nimport tensorflow_datasets"),
        ("diffusion_jax/workdir.py", "from diffusion_jax.experiment import Experiment"),
        ("diffusion_jax/workdir.py", "from diffusion_jax.version import __version__"),
        ("train.py", "import diffusion_jax as dj"),
        ("diffusion_jax/interop/__main__.py", "from diffusion_jax import workdir"),
    ],
)
def test_a_good_import_passes(path, source):
    assert offences(source, path) == []
