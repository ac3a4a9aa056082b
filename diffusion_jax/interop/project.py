"""The projects whose checkpoints can be imported: their settings, and their tensors as our parameters."""

import abc
import dataclasses
from typing import Any, ClassVar

import einops
import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.interop.error import InteropError, quote
from diffusion_jax.interop.weights import Tensors, find_tensor, transpose_kernel
from diffusion_jax.validation import Checked, integer, optional

ImageShape = tuple[int, int, int]

_TENSOR_KINDS = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}


@dataclasses.dataclass(frozen=True)
class Settings(Checked):
    """The settings that the shapes of the tensors do not determine; None for the project's default."""

    image_size: int | None = dataclasses.field(default=None, metadata=optional(integer(1)))
    steps: int | None = dataclasses.field(default=None, metadata=optional(integer(1)))
    heads: int | None = dataclasses.field(default=None, metadata=optional(integer(1)))
    groups: int | None = dataclasses.field(default=None, metadata=optional(integer(1)))


class Project(abc.ABC):
    """Names and layouts of one project's tensors. An instance has no state."""

    # Name of a tensor that only this project's network has.
    mark: ClassVar[str]

    @abc.abstractmethod
    def read_config(self, tensors: Tensors, settings: Settings) -> tuple[dict[str, Any], ImageShape]:
        """Returns (complete config, image_shape) of the training run, from the shapes of the tensors.

        Raises InteropError that names the tensor or setting that does not fit.
        """

    @abc.abstractmethod
    def name_layer(self, layer: list[str], model: Any) -> str:
        """Returns the name that the project gives a layer of `model`: "downs.0.conv" for ["down0_block0"]."""

    def convert_kernel(self, layer: list[str], weight: np.ndarray, ndim: int) -> np.ndarray:
        """Returns a weight as our kernel of `ndim` dimensions; NumPy or einops raises if it cannot be one."""
        return transpose_kernel(weight, ndim)

    def convert(self, tensors: Tensors, model: Any, image_shape: ImageShape) -> dict[str, Any]:
        """Returns the parameters of `model`, each in the dtype of the tensor that it comes from.

        Raises InteropError that names a tensor that is missing, matches no parameter, or has another shape,
        a dtype that is not floating point or values that are not finite.
        """
        used = set()

        def convert_leaf(path: tuple, parameter: jax.ShapeDtypeStruct) -> np.ndarray:
            _, *layer, kind = (key.key for key in path)
            name = f"{self.name_layer(layer, model)}.{_TENSOR_KINDS[kind]}"
            used.add(name)
            return self._convert_tensor(name, find_tensor(tensors, name), [*layer, kind], parameter.shape)

        params = jax.tree_util.tree_map_with_path(convert_leaf, _abstract_params(model, image_shape))
        if unused := sorted(tensors.keys() - used):
            raise InteropError(f"tensor {quote(unused[0])} has no place in the network")
        return params

    def _convert_tensor(self, name: str, tensor: np.ndarray, path: list[str], shape: tuple[int, ...]) -> np.ndarray:
        *layer, kind = path
        try:
            leaf = _take_part(layer, tensor)
            leaf = self.convert_kernel(layer, leaf, len(shape)) if kind == "kernel" else leaf
        except (ValueError, IndexError, einops.EinopsError):  # wrong number of dimensions
            leaf = tensor
        if leaf.shape != shape:
            raise InteropError(f"tensor {name} has shape {tensor.shape}, which does not fit {'/'.join(path)} {shape}")
        return leaf


def _take_part(layer: list[str], tensor: np.ndarray) -> np.ndarray:
    """Returns the third of the tensor that belongs to q, k or v, which share one layer in both projects."""
    return np.split(tensor, 3)["qkv".index(layer[-1])] if layer[-1] in ("q", "k", "v") else tensor


def _abstract_params(model: Any, image_shape: ImageShape) -> Any:
    x = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    time, labels = jax.ShapeDtypeStruct((1,), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)
    return jax.eval_shape(model.init, jax.random.key(0), x, time, labels)
