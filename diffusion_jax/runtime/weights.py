"""Parameters by name, and as one .safetensors file that other libraries read as well."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffusion_jax.runtime.errors import CheckpointError, first_line
from diffusion_jax.runtime.files import replace_file
from diffusion_jax.validation import local_path

__all__ = ["Weights", "name_params", "nest_params", "read_weights", "split_path", "write_weights"]

Weights = dict[str, Any]  # "params/Dense_0/kernel" -> array

_KEY = re.compile(r"\['([^'/]+)'\]")
# What the header of a file holds beside the arrays; both are text.
_DESCRIPTION, _HASH = "diffusion_jax", "sha256"


def name_params(params: Any) -> Weights:
    """The leaves of nested dicts by name, in order.

    Raises CheckpointError for other pytrees, whose leaves have no names.

    >>> name_params({"params": {"Dense_0": {"bias": np.zeros(3)}}}).keys()
    dict_keys(['params/Dense_0/bias'])
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {"/".join(split_path(jax.tree_util.keystr(path))): leaf for path, leaf in leaves}


def split_path(path: str) -> list[str]:
    """The keys of a path of JAX: "['params']['bias']" -> ["params", "bias"]."""
    keys = _KEY.findall(path)
    if "".join(f"['{key}']" for key in keys) != path:
        raise CheckpointError(f"parameter {path}: parameters must be nested dicts, with names without / and '")
    return keys


def nest_params(weights: Mapping[str, Any]) -> dict[str, Any]:
    """The nested dicts of `name_params`.

    >>> nest_params({"params/Dense_0/bias": 1, "params/scale": 2})
    {'params': {'Dense_0': {'bias': 1}, 'scale': 2}}
    """
    nested: dict[str, Any] = {}
    for name, value in weights.items():
        *above, last = name.split("/")
        branch = nested
        for key in above:
            branch = branch.setdefault(key, {})
        branch[last] = value
    return nested


def write_weights(path: str | Path, weights: Mapping[str, Any], description: Mapping[str, Any]) -> None:
    """Writes weights and a description, JSON values, as a .safetensors file, which is replaced at once.

    Raises ValueError for another ending and OSError if the file cannot be written.
    """
    from safetensors.numpy import save

    path = local_path("path", path)
    if path.suffix != ".safetensors":
        raise ValueError(f"path = {path}: the ending must be .safetensors")
    arrays = {name: np.array(jax.device_get(value), order="C") for name, value in weights.items()}
    text = json.dumps(description, sort_keys=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(path) as new:
        new.write_bytes(save(arrays, {_DESCRIPTION: text, _HASH: _digest(arrays, text)}))


def read_weights(path: Path) -> tuple[Weights, dict[str, Any]]:
    """Reads what `write_weights` has written: (weights, description). No code in the file runs.

    Raises CheckpointError if the file is damaged or not of this library, and OSError if it cannot be read.
    """
    from safetensors import safe_open

    path.open("rb").close()  # an OSError that names the file
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except Exception as error:  # the library does not document what it raises for damaged files
        raise CheckpointError(f"{path} cannot be read as .safetensors: {first_line(error)}") from error
    if _DESCRIPTION not in header:
        raise CheckpointError(f"{path} is not of this library: use a file of `diffusion-jax export`")
    if header.get(_HASH) != _digest(arrays, header[_DESCRIPTION]):
        raise CheckpointError(f"{path} is damaged: its contents do not match its hash; restore it from a backup")
    for name, array in arrays.items():
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise CheckpointError(f"{path}: {name} is {array.dtype}: must be finite floats; export a sound run")
    return arrays, _parse(path, header[_DESCRIPTION])


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        description = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} has a description that is not JSON: {first_line(error)}") from error
    if not isinstance(description, dict):
        raise CheckpointError(f"{path} has a description of {type(description).__name__}: must be a dict")
    return description


def _digest(arrays: Mapping[str, np.ndarray], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].shape} {arrays[name].dtype}".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()
