"""Weights of other projects, with all that sampling from them needs."""

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
from diffusion_jax.interop import mnist, pokemon, torch_file
from diffusion_jax.interop.torch_pickle import InteropError, shown
from diffusion_jax.interop.weights import Tensors
from diffusion_jax.process import predictions, schedules
from diffusion_jax.process.predictions import Prediction
from diffusion_jax.process.schedules import Schedule
from diffusion_jax.sampling.denoiser import Denoise, denoiser

_PROJECTS = (pokemon, mnist)
_WRAPPERS = ("module.", "_orig_mod.")  # DataParallel's and torch.compile's


@dataclasses.dataclass(frozen=True)
class Imported:
    """A network that another project has trained.

    Attributes:
      config: a complete config of the run as far as it is known; plain values.
      model, schedule, prediction: what the config's sections describe.
      params: float32.
      image_shape: (H, W, C).
    """

    config: dict[str, Any]
    model: Any
    params: Any
    schedule: Schedule
    prediction: Prediction
    image_shape: tuple[int, int, int]

    def denoiser(self, labels: ArrayLike | None = None) -> Denoise:
        """denoise(x_t, t), for `dj.sample`. A network with classes needs labels [B]: it never was without."""
        if labels is None and self.model.num_classes:
            raise InteropError(
                f"labels: this network was always told one of {self.model.num_classes} classes; give one a picture"
            )
        if labels is not None and not self.model.num_classes:
            raise InteropError("labels: this network has no classes; leave them out")
        return denoiser(self.model.apply, self.params, self.schedule, self.prediction, labels)


def load(
    path: str | Path,
    *,
    image_size: int | None = None,
    steps: int | None = None,
    heads: int | None = None,
    groups: int | None = None,
) -> Imported:
    """The network in a PyTorch checkpoint of one of two projects, told apart by the names of its tensors.

    girishdhegde/diffusion, ddpm (FiLM U-Net, Pokemon) and okarthikb/diffusion (ConvNeXt U-Net, MNIST). The
    state dict may lie anywhere inside nested dicts. PyTorch is not needed, and nothing in the file is run.

    Args:
      image_size: side of the pictures; 64 (Pokemon) or 28 (MNIST) unless given.
      steps: T of the training; 100 or 500 unless given, or what the file says.
      heads, groups: of attention and norms of the FiLM U-Net, where they were not 4.

    Raises:
      InteropError: with one line, for a file that is no such checkpoint, settings that do not fit it, and a
        tensor that is missing, left over, of another shape or not finite.
      OSError: where the file cannot be opened.
    """
    content = torch_file.read(path)
    try:
        project, tensors = find_tensors(content)
        if image_size is not None and image_size < 1:
            raise InteropError(f"image_size = {image_size}: must be positive, in pixels")
        config, image_shape = project.config_of(tensors, image_size, steps, heads, groups)
        model = _built(models, config["model"])
        model.check(image_shape)
        schedule = _built(schedules, config["schedule"])
        prediction = _built(predictions, config["prediction"])
        prediction.check(schedule)
        params = project.params_of(tensors, model, image_shape)
    except ValueError as error:
        raise InteropError(f"{path}: {error}") from None
    params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), params)
    return Imported(config, model, params, schedule, prediction, image_shape)


def find_tensors(content: Any) -> tuple[ModuleType, Tensors]:
    """(the project's module, its tensors by their names), from anywhere within nested dicts.

    Raises InteropError where there is none, or more than one.
    """
    found: list[tuple[str, ModuleType, Tensors]] = []
    seen: set[int] = set()
    waiting = [("", content)]
    while waiting:
        where, inside = waiting.pop()
        if not isinstance(inside, Mapping) or id(inside) in seen:
            continue
        seen.add(id(inside))
        names = {_unwrapped(str(key)): value for key, value in inside.items()}
        for project in _PROJECTS:
            if isinstance(names.get(project.MARK), np.ndarray):
                found.append((where, project, names))
        waiting += [(f"{where}/{key}".lstrip("/")[:200], value) for key, value in names.items()]
    if len(found) != 1:
        raise InteropError(_not_one(sorted(where for where, _, _ in found)))
    return found[0][1:]


def _unwrapped(name: str) -> str:
    for wrapper in _WRAPPERS * len(_WRAPPERS):
        name = name.removeprefix(wrapper)
    return name


def _not_one(places: list[str]) -> str:
    if not places:
        marks = " nor ".join(project.MARK for project in _PROJECTS)
        return f"holds neither network that is known here: no tensor {marks}"
    return f"holds {len(places)} networks, {shown(', '.join(places))}; save the one that you want alone"


def _built(module: ModuleType, spec: dict[str, Any]) -> Any:
    return getattr(module, spec["name"])(**{key: value for key, value in spec.items() if key != "name"})
