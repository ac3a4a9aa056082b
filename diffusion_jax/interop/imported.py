"""Networks that other projects have trained, with everything that sampling needs."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from diffusion_jax import models
from diffusion_jax.interop.error import InteropError, quote
from diffusion_jax.interop.mnist import MNIST
from diffusion_jax.interop.pokemon import Pokemon
from diffusion_jax.interop.project import Project, Settings
from diffusion_jax.interop.torch_file import read_torch_file
from diffusion_jax.interop.weights import Tensors
from diffusion_jax.process import predictions, schedules
from diffusion_jax.process.predictions import Prediction
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling.denoiser import Denoise, denoiser

_PROJECTS = (Pokemon(), MNIST())
_WRAPPERS = ("module.", "_orig_mod.")  # prefixes that DataParallel and torch.compile add to the names


@dataclasses.dataclass(frozen=True)
class Imported:
    """A network that another project has trained.

    Attributes:
      config: complete config of the training run, as far as it is known; plain values.
      model, schedule, prediction: the objects that the config's sections describe.
      params: float32.
      image_shape: (H, W, C).

    >>> imported = dj.interop.load("ckpt.pt", image_size=16)
    >>> denoise = imported.denoiser()
    >>> imported.image_shape, imported.prediction
    ((16, 16, 3), Eps())
    """

    config: dict[str, Any]
    model: Any
    params: Any
    schedule: Schedule
    prediction: Prediction
    image_shape: tuple[int, int, int]

    def denoiser(self, labels: ArrayLike | None = None) -> Denoise:
        """Returns denoise(x_t, t) for `dj.sample`.

        A network with classes requires labels [B], because it was never trained without. Raises InteropError if
        they are missing, or passed to a network without classes.
        """
        classes = self.model.num_classes
        if labels is None and classes:
            raise InteropError(f"labels = None: this network needs one of its {classes} classes per image")
        if labels is not None and not classes:
            raise InteropError("labels must be None: this network has no classes; leave them out")
        return denoiser(self.model.apply, self.params, self.schedule, self.prediction, labels)


def load(
    path: str | Path,
    *,
    image_size: int | None = None,
    steps: int | None = None,
    heads: int | None = None,
    groups: int | None = None,
) -> Imported:
    """Returns the network in a PyTorch checkpoint of one of two projects, recognized by the names of its tensors.

    The projects are girishdhegde/diffusion, directory ddpm (FiLM U-Net, Pokemon), and okarthikb/diffusion
    (ConvNeXt U-Net, MNIST). The state dict may be at any depth of nested dicts. PyTorch is not needed, and no
    code in the file runs.

    Args:
      path: a file of torch.save.
      image_size: side of the images; default 64 (Pokemon) or 28 (MNIST).
      steps: T of the training; default 100 (Pokemon), or the value in the file or 500 (MNIST).
      heads, groups: of the attention and the norms of the FiLM U-Net; default 4.

    Raises:
      InteropError: with one line, if the file is not such a checkpoint, the settings do not fit it, or a tensor
        is missing, left over, of another shape or not finite.
      OSError: if the file cannot be opened.

    >>> imported = dj.interop.load("ckpt.pt", image_size=16)
    >>> imported.model.width, imported.schedule.steps
    (8, 100)
    """
    content = read_torch_file(path)
    try:
        project, tensors = find_tensors(content)
        config, image_shape = project.read_config(tensors, Settings(image_size, steps, heads, groups))
        model = _instantiate(models, config["model"])
        model.check(image_shape)
        schedule = _instantiate(schedules, config["schedule"])
        prediction = _instantiate(predictions, config["prediction"])
        params = project.convert(tensors, model, image_shape)
    except ValueError as error:
        raise InteropError(f"{path}: {error}") from None
    params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), params)
    return Imported(config, model, params, schedule, prediction, image_shape)


def find_tensors(content: Any) -> tuple[Project, Tensors]:
    """Returns the project and its tensors by name, from any depth of nested dicts.

    Raises InteropError unless there is exactly one state dict of a known project.
    """
    found: list[tuple[str, Project, Tensors]] = []
    visited: set[int] = set()
    waiting = [("", content)]
    while waiting:  # not recursive: dicts may be nested more deeply than Python's stack allows
        where, inside = waiting.pop()
        if not isinstance(inside, Mapping) or id(inside) in visited:
            continue
        visited.add(id(inside))
        values = {_remove_wrappers(str(key)): value for key, value in inside.items()}
        for project in _PROJECTS:
            if isinstance(values.get(project.mark), np.ndarray):
                found.append((where, project, values))
        waiting += [(f"{where}/{key}".lstrip("/")[:200], value) for key, value in values.items()]
    if len(found) != 1:
        raise InteropError(_explain_number(sorted(where for where, _, _ in found)))
    return found[0][1:]


def _remove_wrappers(name: str) -> str:
    for wrapper in _WRAPPERS * len(_WRAPPERS):
        name = name.removeprefix(wrapper)
    return name


def _explain_number(places: list[str]) -> str:
    if not places:
        marks = " nor ".join(project.mark for project in _PROJECTS)
        return f"has no network of a known project: neither tensor {marks}"
    return f"has {len(places)} networks, {quote(', '.join(places))}; save only the one to import"


def _instantiate(module: ModuleType, section: dict[str, Any]) -> Any:
    return getattr(module, section["name"])(**{key: value for key, value in section.items() if key != "name"})
