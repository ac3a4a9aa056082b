"""Weights of the ConvNeXt U-Net of github.com/okarthikb/diffusion, trained on MNIST."""

import re
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffusion_jax import models
from diffusion_jax.interop import weights
from diffusion_jax.interop.torch_pickle import InteropError
from diffusion_jax.interop.weights import Tensors
from diffusion_jax.models.convnext_unet import interleaved_sinusoid

# A tensor that only this network has.
MARK = "class_emb.weight"
# The sines of times 0 .. T. They are computed here, but say what T is.
_TABLE = "t_emb"
_STRIDES = (2, 2, 3)

# Layers by their names here and there; level i of the way up is the (last - i)-th of theirs.
_PLACE = re.compile(r"(down|up)(\d+)(_attention|_sample|)")
_BLOCK = {
    "time": "t_fc",
    "label": "c_fc",
    "depthwise": "ds_conv",
    "norm1": "sequential.0",
    "conv1": "sequential.1",
    "norm2": "sequential.3",
    "conv2": "sequential.4",
    "shortcut": "shortcut",
}
_ATTENTION = {"norm": "gn", "q": "wx", "k": "wx", "v": "wx", "out": "wo"}


def params_of(tensors: Tensors, model: models.ConvNeXtUNet, image_shape: tuple[int, int, int]) -> dict[str, Any]:
    """The parameters of `model` from their state dict, in its dtype. Raises InteropError naming a tensor."""
    levels = len(model.strides)
    learned = {name: tensor for name, tensor in tensors.items() if name != _TABLE}
    return weights.params_of(learned, model, image_shape, lambda layer: _layer_name(layer, levels), _kernel_of)


def _layer_name(layer: list[str], levels: int) -> str:
    """["up0", "conv1"] -> "upblocks.2.0.sequential.1"."""
    place, inside = layer[0].replace("mid", f"down{levels}"), layer[1:]
    if place == "classes":
        return "class_emb"
    if place == "final":
        return f"final_conv.{_BLOCK[inside[0]]}"
    match = _PLACE.fullmatch(place)
    assert match, place
    way, level, part = match[1], int(match[2]), match[3]
    index = level if way == "down" else levels - 1 - level
    if part == "_sample":
        return f"{way}scales.{index}"
    if part == "_attention":
        return f"{way}blocks.{index}.1.{_ATTENTION[inside[0]]}"
    return f"{way}blocks.{index}.0.{_BLOCK[inside[0]]}"


def _kernel_of(layer: list[str], weight: np.ndarray, ndim: int) -> np.ndarray:
    if re.fullmatch(r"up\d+_sample", layer[0]):
        # A transposed convolution's (in, out, h, w) correlates with the kernel turned by half a turn.
        return weight.transpose(2, 3, 0, 1)[::-1, ::-1]
    return weights.kernel(weight, ndim)


def config_of(
    tensors: Tensors, image_size: int | None, steps: int | None, heads: int | None, groups: int | None
) -> tuple[dict[str, Any], tuple[int, int, int]]:
    """(complete config, image_shape) of the run that left these tensors, its settings read off their shapes.

    T is the length of their table of sines; 500 where there is none, unless given. Pictures are 28x28 unless
    `image_size` is given. Raises InteropError naming the tensor or the argument that makes no sense.
    """
    for name, given in (("heads", heads), ("groups", groups)):
        if given is not None:
            raise InteropError(f"{name} = {given}: this network has one, always; leave it out")
    image_size = 28 if image_size is None else image_size
    num_classes, embedding_width = weights.shape_of(tensors, MARK, 2)
    steps = _steps(tensors, steps, embedding_width)
    blocks = [f"downblocks.{level}.0" for level in range(len(_STRIDES) + 1)]
    channels = tuple(weights.shape_of(tensors, f"{block}.sequential.4.weight", 4)[0] for block in blocks)
    model = dict(
        name="ConvNeXtUNet",
        channels=channels,
        strides=_STRIDES,
        last_width=weights.shape_of(tensors, "upblocks.2.0.sequential.4.weight", 4)[0],
        attention=tuple(dict.fromkeys(models.ConvNeXtUNet(strides=_STRIDES).sides(image_size))),
        expansion=weights.shape_of(tensors, f"{blocks[0]}.sequential.1.weight", 4)[0] // channels[0],
        embedding_width=embedding_width,
        num_classes=num_classes,
        stem=False,
        time_scale=float(steps),
        time_offset=1.0,
        dtype="float32",
    )
    # Their table ends at abar = 2e-15, from where no eps leads back. The usual clip changes that entry alone.
    schedule = dict(name="Cosine", steps=steps, max_beta=0.999)
    config = dict(model=model, schedule=schedule, prediction=dict(name="Eps"))
    in_channels = weights.shape_of(tensors, f"{blocks[0]}.ds_conv.weight", 4)[0]
    return config | _recipe(steps), (image_size, image_size, in_channels)


def _steps(tensors: Tensors, steps: int | None, width: int) -> int:
    if _TABLE not in tensors:
        return 500 if steps is None else steps
    rows, columns = weights.shape_of(tensors, _TABLE, 2)
    sines = interleaved_sinusoid(jnp.arange(1.0, rows + 1), width)
    if columns != width or not np.allclose(np.asarray(tensors[_TABLE], np.float32), sines, atol=1e-2):
        raise InteropError(f"tensor {_TABLE} is not the table of sines that this network has")
    if steps not in (None, rows - 1):
        raise InteropError(f"steps = {steps}: tensor {_TABLE} is for {rows - 1}; leave it out")
    return rows - 1


def _recipe(steps: int) -> dict[str, Any]:
    """The sections about training as that project has them, and the right DDIM to draw with."""
    return dict(
        data=dict(name="TFDS", dataset="mnist"),
        loss=dict(name="DiffusionLoss", label_drop=0.0),
        optimizer=dict(name="adam", lr_schedule=1e-3),
        sampler=dict(name="DDIM", eta=0.0, steps=min(50, steps), clip=True),
        train=dict(steps=9360, batch_size=128),
    )
