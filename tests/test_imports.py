"""The arrows of the design: which part of the package may import which, read from the source."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "diffusion_jax"

# From the bottom up. A file may import its own part of the package and the parts in rows above its own in this list;
# parts in one row are neighbours and import nothing of each other.
LAYERS = [
    {"version"},
    {"validation", "pytrees"},
    {"process"},
    {"models", "runtime"},
    {"training", "sampling", "data"},
    {"evaluation", "oracles"},
    {"run"},
    {"verify"},
    {"config"},
    {"interop"},
    {"figures", "edit"},
    {"workdir", "demo"},
    {"report", "preflight"},
    {"__init__"},
    {"cli"},
    {"configs", "scripts"},
]
ROW = {layer: row for row, layers in enumerate(LAYERS) for layer in layers}
# What imports nothing of ours, and what must not be imported by whom although the rows would allow it.
INDEPENDENT = {"version", "validation", "pytrees", "configs"}
FORBIDDEN_ARROWS = {
    (layer, "training") for layer in ("evaluation", "oracles", "run", "verify", "figures", "edit", "demo")
}
# A third-party package -> the only folder or file that may import it.
CONFINED = {
    "flax": f"{PACKAGE}/models/",
    "grain": f"{PACKAGE}/data/",
    "tensorflow_datasets": f"{PACKAGE}/data/",
    "orbax": f"{PACKAGE}/runtime/checkpoint.py",
    "gcsfs": f"{PACKAGE}/runtime/place.py",
    "gradio": f"{PACKAGE}/demo/page.py",
}
FORBIDDEN = {"tensorflow", "torch"}
ALLOWED_IN_PROCESS = {"jax", "numpy"} | set(sys.stdlib_module_names)


def imported_modules(tree: ast.AST, path: str) -> Iterator[str]:
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
    """The layer of a module of ours, None for other packages."""
    parts = module.split(".")
    if parts[0] == "configs":
        return "configs"
    if parts[0] != PACKAGE:
        return None
    return parts[1] if len(parts) > 1 and parts[1] in ROW else "__init__"


def find_offences(source: str, path: str) -> list[str]:
    """The forbidden imports of one file, `path` from the repository's root."""
    layer = layer_of_file(path)
    if layer not in ROW:
        return [f"{path}: {layer} is not a layer of the design"]
    found = []
    for module in imported_modules(ast.parse(source), path):
        top, other = module.split(".")[0], layer_of_module(module)
        if other not in (None, layer) and layer in INDEPENDENT:
            found.append(f"{path}: imports {module}; {layer} must import nothing of ours")
        elif other not in (None, layer) and ROW[other] >= ROW[layer]:
            found.append(f"{path}: imports {module}, which is not below {layer}")
        elif (layer, other) in FORBIDDEN_ARROWS:
            found.append(f"{path}: imports {module}; {layer} must not import training")
        if top in FORBIDDEN:
            found.append(f"{path}: imports {module}")
        if top in CONFINED and not path.startswith(CONFINED[top]):
            found.append(f"{path}: imports {module}, which only {CONFINED[top]} may")
        if layer == "process" and other is None and top not in ALLOWED_IN_PROCESS:
            found.append(f"{path}: imports {module} in process")
    return found


def checked_files() -> list[str]:
    patterns = (f"{PACKAGE}/**/*.py", "configs/**/*.py", "train.py", "sample.py")
    paths = [path for pattern in patterns for path in ROOT.glob(pattern)]
    return sorted(path.relative_to(ROOT).as_posix() for path in paths)


@pytest.mark.parametrize("path", checked_files())
def test_imports_point_down(path):
    assert find_offences((ROOT / path).read_text(), path) == []


def test_the_whole_package_is_read():
    layers = {layer_of_file(path) for path in checked_files()}
    assert layers >= ROW.keys()
    assert len(checked_files()) > 100


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("diffusion_jax/process/forward.py", "from diffusion_jax.sampling import grids"),
        ("diffusion_jax/process/forward.py", "from ..sampling import grids"),
        ("diffusion_jax/process/forward.py", "import einops"),
        ("diffusion_jax/process/forward.py", "import diffusion_jax as dj"),
        ("diffusion_jax/sampling/loop.py", "def f():\n    import diffusion_jax.training.ema"),
        ("diffusion_jax/sampling/loop.py", "from diffusion_jax.training.losses import Loss"),
        ("diffusion_jax/sampling/loop.py", "from diffusion_jax.data import sources"),
        ("diffusion_jax/training/step.py", "from diffusion_jax.sampling.denoiser import denoiser"),
        ("diffusion_jax/training/losses/base.py", "from ...sampling import guidance"),
        ("diffusion_jax/training/step.py", "from diffusion_jax import sampling"),
        ("diffusion_jax/training/loop.py", "from diffusion_jax.data.pipeline import Batches"),
        ("diffusion_jax/training/loop.py", "from diffusion_jax.run import Run"),
        ("diffusion_jax/data/pipeline.py", "from diffusion_jax.training.step import Batch"),
        ("diffusion_jax/runtime/images.py", "from diffusion_jax.models import UNet"),
        ("diffusion_jax/run/run.py", "from diffusion_jax.config.experiment import Experiment"),
        ("diffusion_jax/run/run.py", "from diffusion_jax.training.state import Model"),
        ("diffusion_jax/run/run.py", "from configs import digits"),
        ("diffusion_jax/figures.py", "from diffusion_jax.training import losses"),
        ("diffusion_jax/figures.py", "from diffusion_jax.edit import tasks"),
        ("diffusion_jax/edit/tasks.py", "from diffusion_jax.training import losses"),
        ("diffusion_jax/demo/results.py", "from diffusion_jax.cli import flags"),
        ("diffusion_jax/demo/results.py", "import gradio"),
        ("diffusion_jax/oracles/data.py", "from diffusion_jax.verify import cases"),
        ("diffusion_jax/config/components.py", "from diffusion_jax.workdir import load"),
        ("diffusion_jax/workdir/load.py", "from diffusion_jax.cli import flags"),
        ("diffusion_jax/interop/imported.py", "from diffusion_jax import workdir"),
        ("diffusion_jax/validation.py", "from diffusion_jax.process import schedules"),
        ("diffusion_jax/training/step.py", "import flax.linen as nn"),
        ("diffusion_jax/training/step.py", "from grain import python"),
        ("diffusion_jax/runtime/mesh.py", "import orbax.checkpoint as ocp"),
        ("diffusion_jax/workdir/session.py", "import tensorflow_datasets"),
        ("diffusion_jax/data/sources/tfds.py", "import tensorflow as tf"),
        ("diffusion_jax/models/unet.py", "from torch import nn"),
        ("diffusion_jax/helpers/x.py", ""),
        ("configs/a.py", "import diffusion_jax"),
    ],
)
def test_a_bad_import_is_found(path, source):
    assert len(find_offences(source, path)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("diffusion_jax/process/forward.py", "import math\nimport jax.numpy as jnp\nimport numpy"),
        ("diffusion_jax/process/forward.py", "from . import schedules"),
        ("diffusion_jax/training/step.py", "from diffusion_jax.training import ema\nimport optax"),
        ("diffusion_jax/training/losses/base.py", "from ...process import forward"),
        ("diffusion_jax/models/unet.py", "import flax.linen as nn"),
        ("diffusion_jax/runtime/checkpoint.py", "import orbax.checkpoint"),
        ("diffusion_jax/data/pipeline.py", "import grain\nimport tensorflow_datasets"),
        ("diffusion_jax/run/run.py", "from diffusion_jax.sampling import guidance"),
        ("diffusion_jax/config/experiment.py", "from diffusion_jax.training import losses"),
        ("diffusion_jax/workdir/session.py", "from diffusion_jax.training.step import make_train_step"),
        ("diffusion_jax/workdir/session.py", "from diffusion_jax.version import __version__"),
        ("diffusion_jax/cli/train.py", "import diffusion_jax as dj"),
        ("diffusion_jax/demo/page.py", "import gradio"),
        ("train.py", "import diffusion_jax as dj"),
        ("diffusion_jax/interop/__main__.py", "from diffusion_jax import workdir"),
    ],
)
def test_a_good_import_passes(path, source):
    assert find_offences(source, path) == []
