"""Weights of the FiLM U-Net of github.com/girishdhegde/diffusion (folder ddpm), trained on Pokemon."""

import re
from typing import Any

import numpy as np

from diffusion_jax import models
from diffusion_jax.interop import weights
from diffusion_jax.interop.torch_pickle import InteropError
from diffusion_jax.interop.weights import Tensors

# A tensor that only this network has.
MARK = "init_conv.weight"

# Layers by their names here and there; level i of the way up is the (last - i)-th of theirs.
_PLACES = {
    "time0": "time_emb.1",
    "time1": "time_emb.3",
    "conv_in": "init_conv",
    "mid_block0": "mid.pre_conv",
    "mid_attention": "mid.attn",
    "mid_block1": "mid.post_conv",
    "final_block": "final_res",
    "conv_out": "final_conv",
}
_LEVEL = re.compile(r"(down|up)(\d+)_(block0|block0_attention|sample)")
_LEVEL_PARTS = {"block0": "conv", "block0_attention": "attn"}
_LAYERS = {
    "conv1": "conv1",
    "norm1": "norm1",
    "conv2": "conv2.0",
    "norm2": "conv2.1",
    "time": "time_emb.1",
    "shortcut": "shortcut",
    "norm": "norm",
    "q": "fn.to_qkv",
    "k": "fn.to_qkv",
    "v": "fn.to_qkv",
    "out": "fn.proj",
}


def params_of(tensors: Tensors, model: models.FiLMUNet, image_shape: tuple[int, int, int]) -> dict[str, Any]:
    """The parameters of `model` from their state dict, in its dtype. Raises InteropError naming a tensor."""
    last = len(model.multipliers) - 1

    def layer_of(layer: list[str]) -> str:
        place, *inside = layer
        theirs = _PLACES.get(place) or _level_name(place, last)
        return ".".join([theirs, *(_LAYERS[name] for name in inside[:1])])

    return weights.params_of(tensors, model, image_shape, layer_of, _kernel_of)


def _level_name(place: str, last: int) -> str:
    match = _LEVEL.fullmatch(place)
    assert match, place
    way, level, part = match[1], int(match[2]), match[3]
    where = f"downs.{level}" if way == "down" else f"ups.{last - level}"
    sample = "ds.1" if way == "down" else "us.1"
    return f"{where}.{_LEVEL_PARTS.get(part, sample)}"


def _kernel_of(layer: list[str], weight: np.ndarray, ndim: int) -> np.ndarray:
    if re.fullmatch(r"down\d+_sample", layer[0]):
        # Their space-to-depth has the channels outermost, (c, p1, p2), ours innermost.
        out, channels = weight.shape[0], weight.shape[1] // 4
        weight = weight.reshape(out, channels, 2, 2).transpose(0, 2, 3, 1).reshape(out, 4 * channels)
    return weights.kernel(weight, ndim)


def config_of(
    tensors: Tensors, image_size: int | None, steps: int | None, heads: int | None, groups: int | None
) -> tuple[dict[str, Any], tuple[int, int, int]]:
    """(complete config, image_shape) of the run that left these tensors, its settings read off their shapes.

    What the shapes do not tell is theirs unless given: pictures of 64x64, T = 100, 4 heads, 4 groups. Raises
    InteropError naming the tensor that makes no sense.
    """
    image_size = 64 if image_size is None else image_size
    steps = 100 if steps is None else steps
    width, channels = weights.shape_of(tensors, MARK, 4)[:2]
    levels = range(weights.count(tensors, "downs."))
    attention = [level for level in levels if f"downs.{level}.attn.norm.weight" in tensors]
    model = dict(
        name="FiLMUNet",
        width=width,
        multipliers=tuple(_multiplier(tensors, level, width) for level in levels),
        attention=tuple(image_size // 2**level for level in attention),
        groups=4 if groups is None else groups,
        **_heads(tensors, 4 if heads is None else heads),
        time_scale=float(steps),
        time_offset=-1.0,
        dtype="float32",
    )
    # Beta clipped to [1e-4, 0.9999].
    schedule = dict(name="Cosine", steps=steps, min_beta=1e-4, max_beta=0.9999)
    config = dict(model=model, schedule=schedule, prediction=dict(name="Eps"))
    return config | _recipe(image_size, channels, steps), (image_size, image_size, channels)


def _multiplier(tensors: Tensors, level: int, width: int) -> int:
    name = f"downs.{level}.conv.conv1.weight"
    channels = weights.shape_of(tensors, name, 4)[0]
    if channels % width:
        raise InteropError(f"tensor {name} has {channels} channels, no multiple of the first layer's {width}")
    return channels // width


def _heads(tensors: Tensors, heads: int) -> dict[str, int]:
    inner = weights.shape_of(tensors, "mid.attn.fn.to_qkv.weight", 2)[0] // 3
    if heads < 1 or inner % heads:
        raise InteropError(f"heads = {heads}: must divide the {inner} channels of attention")
    return dict(heads=heads, head_channels=inner // heads)


def _recipe(image_size: int, channels: int, steps: int) -> dict[str, Any]:
    """The sections about training and drawing as that project has them, but for clipping."""
    return dict(
        data=dict(name="Folder", path="pokemon", size=image_size, channels=channels, crop="squash", flip=True),
        loss=dict(name="DiffusionLoss", label_drop=0.0),
        optimizer=dict(name="adamw", lr_schedule=2e-4, b1=0.9, b2=0.95, weight_decay=1e-3),
        # They do not clip x0; of their 64 published pictures 4 or 5 are blank.
        sampler=dict(name="DDPM", variance="large", steps=steps, clip=True),
        train=dict(steps=100_000, batch_size=16),
    )
