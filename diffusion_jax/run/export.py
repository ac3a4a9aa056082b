"""A run's sampler as one file that JAX alone can read: programs, weights and a description.

The file is an .npz archive, whatever its name: `stored/<i>` are the arrays that every program takes first (the weights,
the numbers of the sampler and the inputs that are constants), `program/<steps>` is the serialized program of that many
steps, and `description` is JSON. Each member has a checksum, so reading a damaged file raises.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.run.inputs import prepare_inputs
from diffusion_jax.run.network import Network
from diffusion_jax.run.program import DTYPES, Contents, serialize_program, stored_part
from diffusion_jax.run.settings import Sampling
from diffusion_jax.runtime.files import replace_file
from diffusion_jax.validation import check_integer, local_path
from diffusion_jax.version import __version__

if TYPE_CHECKING:
    from diffusion_jax.run.run import Run

__all__ = ["PLATFORMS", "export_sampler"]

PLATFORMS = ("cpu", "cuda", "tpu")


def export_sampler(
    run: "Run",
    path: Path,
    inputs: Sequence[str] | None,
    constants: Mapping[str, int | None],
    steps: int | Sequence[int] | None,
    n: int | None,
    platforms: Sequence[str],
    sampling: Sampling | None,
    overrides: dict[str, Any],
) -> None:
    """`Run.export`; `constants` are the seed and the class, None where they are not given."""
    path, platforms = _check_path(path), _check_platforms(platforms)
    settings = (run.sampling if sampling is None else sampling).override(**overrides)
    names = _choose_inputs(inputs, run.network, {**constants, "guidance": overrides.get("guidance")})
    numbers = _choose_steps(steps, settings.steps)
    for number in numbers:
        settings.grid(run.schedule, number)  # raises for numbers of steps that it does not have
    # Any class and any scale that guides are checked alike.
    label = 0 if "labels" in names else constants["labels"]
    acting: Any = overrides | ({"guidance": 2.0} if "guidance" in names else {})
    with _explain_input("guidance", names):
        prepared = prepare_inputs(run, 1, None if label is None else np.array([label]), sampling, acting)
    scale = None if prepared.scale is None else prepared.scale[0]
    params, networks = (pair if scale is not None else (pair[0], None) for pair in (prepared.params, prepared.networks))
    fixed = _as_constants(names, {**constants, "guidance": scale})
    contents = Contents(params, prepared.shared, fixed, names, networks, settings.grid, settings.clip)
    class_names = run.class_names if run.network.num_classes else ()
    about = _describe(contents, n) | {"class_names": class_names, "training_step": run.step}
    _write(path, contents, numbers, n, platforms, about)


def _choose_inputs(names: Sequence[str] | None, network: Network, constants: Mapping[str, Any]) -> tuple[str, ...]:
    """The inputs of the program. By default the seed and the labels, unless they are given as constants.

    Raises ValueError for an unknown name, for an input that also has a value, and for a seed that has neither.
    """
    if names is None:
        wanted = ("seed", "labels") if network.num_classes else ("seed",)
        names = [name for name in wanted if constants[name] is None]
    for name in [names] if isinstance(names, str) else names:
        if isinstance(names, str) or name not in DTYPES:
            hint = "; give the numbers of steps that are wanted instead, such as steps=(10, 20)" * (name == "steps")
            raise ValueError(f"inputs = {name!r}: must be some of {', '.join(DTYPES)}, in a tuple{hint}")
        if constants[name] is not None:
            raise ValueError(f"{name}: is an input and has a value too; leave the value out, or {name} out of inputs")
    if "seed" not in names and constants["seed"] is None:
        raise ValueError("seed: must be an integer or an input; give one, such as 0, or add seed to inputs")
    if "labels" in names and not network.num_classes:
        raise ValueError("inputs = 'labels': this network was trained without classes; leave labels out")
    return tuple(name for name in DTYPES if name in names)


def _choose_steps(steps: int | Sequence[int] | None, default: int) -> tuple[int, ...]:
    """The numbers of steps, ascending. Raises ValueError unless they are integers of at least 1.

    >>> _choose_steps((20, 5), 50)
    (5, 20)
    """
    chosen: Any = (default,) if steps is None else tuple(np.ravel(steps).tolist())
    if not chosen:
        raise ValueError("steps = (): must be one or more integers, such as (10, 20)")
    for number in chosen:
        check_integer("steps", number)
    return tuple(sorted({int(number) for number in chosen}))


def _check_platforms(platforms: Sequence[str]) -> tuple[str, ...]:
    """The platforms without repetitions. Raises ValueError for other names.

    >>> _check_platforms(["cpu", "cuda"])
    ('cpu', 'cuda')
    """
    if isinstance(platforms, str) or not platforms or not {*platforms} <= {*PLATFORMS}:
        raise ValueError(f"platforms = {platforms!r}: must be some of {', '.join(PLATFORMS)}, such as ('cpu',)")
    return tuple(dict.fromkeys(platforms))


@contextmanager
def _explain_input(name: str, inputs: Sequence[str]) -> Iterator[None]:
    """Errors about the value of an input, which has none yet, name `inputs` instead."""
    try:
        yield
    except ValueError as error:
        value, _, reason = str(error).partition(": ")
        if name not in inputs or not value.startswith(f"{name} = "):
            raise
        raise ValueError(f"inputs = {name!r}: {reason}") from error


def _write(
    path: Path,
    contents: Contents,
    steps: tuple[int, ...],
    n: int | None,
    platforms: tuple[str, ...],
    about: Mapping[str, Any],
) -> None:
    """Writes a program for each of `steps`, the arrays that they take and a description; replaces the file at once."""
    _check_flatbuffers()
    stored = [_as_array(x) for x in jax.tree.leaves(stored_part(contents))]
    members = {f"stored/{i}": x for i, x in enumerate(stored)}
    members |= {f"program/{number}": serialize_program(contents, stored, number, n, platforms) for number in steps}
    description = {**about, "steps": steps, "platforms": platforms, "stored": len(stored)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(path) as new, new.open("wb") as file:
        np.savez(file, allow_pickle=False, description=np.array(json.dumps(description)), **members)


def _describe(contents: Contents, n: int | None) -> dict[str, Any]:
    """What a reader of the file needs to call its programs, as JSON values."""
    network, batch = contents.networks[0], "n" if n is None else n
    ranges = {"seed": [0, 2**32 - 1], "labels": [0, network.num_classes - 1], "guidance": None}
    inputs: dict[str, Any] = {"indices": {"dtype": "int32", "shape": [batch], "range": [0, 2**31 - 1]}}
    for name in contents.inputs:
        shape = [batch] if name == "labels" else []
        inputs[name] = {"dtype": np.dtype(DTYPES[name]).name, "shape": shape, "range": ranges[name]}
    shared = contents.shared
    settings = {
        "sampler": str(shared.sampler),
        "grid": str(contents.grid),
        "clip": contents.clip,
        "threshold": float(shared.threshold or 0),
        "guidance_interval": [float(level) for level in shared.interval or ()],
        "guidance_rescale": float(shared.rescale or 0),
    }
    return {
        "format": "diffusion_jax sampler 1",
        "diffusion_jax": __version__,
        "jax": jax.__version__,
        "inputs": inputs,
        "constants": settings | {name: value.item() for name, value in contents.constants.items()},
        "output": {"dtype": "float32", "shape": [batch, *network.image_shape], "range": [-1, 1]},
    }


def _as_constants(inputs: Sequence[str], values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The values that are stored in place of inputs; those that are None, no class and no guidance, are not."""
    kept = {name: value for name, value in values.items() if value is not None and name not in inputs}
    return {name: np.asarray(value, DTYPES[name]) for name, value in kept.items()}


def _as_array(x: Any) -> np.ndarray:
    array = np.asarray(jax.device_get(jnp.asarray(x)))
    if array.dtype.kind not in "biuf":  # bfloat16 and its like: .npz would read them as bytes
        raise ValueError(f"run.params: has {array.dtype}: must be float32 or another dtype of numpy; convert it first")
    return array


def _check_path(path: Path) -> Path:
    """The path of a local .bin file. Raises ValueError for another ending."""
    path = local_path("path", path)
    if path.suffix != ".bin":
        raise ValueError(f"path = {path}: the ending must be .bin; dj.export writes the weights as .safetensors")
    return path


def _check_flatbuffers() -> None:
    """Raises ValueError if the package is missing that `jax.export` writes programs with."""
    try:
        import flatbuffers  # noqa: F401
    except ImportError as error:
        missing = "run.export needs flatbuffers, which is not installed"
        raise ValueError(f'{missing}: pip install "diffusion_jax[export]"') from error
