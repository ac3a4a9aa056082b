"""The FiLM U-Net of github.com/girishdhegde/diffusion (directory ddpm), trained on Pokemon."""

import re
from typing import Any

import einops
import numpy as np

from diffusion_jax import models
from diffusion_jax.interop.error import InteropError
from diffusion_jax.interop.project import ImageShape, Project, Settings
from diffusion_jax.interop.weights import Tensors, count_numbered, find_shape, transpose_kernel

# Our name of a layer -> the project's. Level i of our way up is number (last - i) in the project.
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


class Pokemon(Project):
    """Defaults, where the shapes of the tensors do not tell: images of 64x64, T = 100, 4 heads, 4 groups."""

    mark = "init_conv.weight"

    def read_config(self, tensors: Tensors, settings: Settings) -> tuple[dict[str, Any], ImageShape]:
        image_size = settings.image_size or 64
        steps = settings.steps or 100
        width, channels = find_shape(tensors, self.mark, 4)[:2]
        levels = range(count_numbered(tensors, "downs."))
        attention = [level for level in levels if f"downs.{level}.attn.norm.weight" in tensors]
        model = dict(
            name="FiLMUNet",
            width=width,
            multipliers=tuple(_read_multiplier(tensors, level, width) for level in levels),
            attention=tuple(image_size // 2**level for level in attention),
            groups=settings.groups or 4,
            **_read_heads(tensors, settings.heads or 4),
            time_scale=float(steps),
            time_offset=-1.0,
            dtype="float32",
        )
        # Beta clipped to [1e-4, 0.9999].
        schedule = dict(name="Cosine", steps=steps, min_beta=1e-4, max_beta=0.9999)
        config = dict(model=model, schedule=schedule, prediction=dict(name="Eps"))
        return config | self._training_sections(image_size, channels, steps), (image_size, image_size, channels)

    def _training_sections(self, image_size: int, channels: int, steps: int) -> dict[str, Any]:
        """The project's training and sampling, except that x0 is clipped."""
        return dict(
            data=dict(name="Folder", path="pokemon", size=image_size, channels=channels, crop="squash", flip=True),
            loss=dict(name="DiffusionLoss", label_drop=0.0),
            optimizer=dict(name="adamw", lr_schedule=2e-4, b1=0.9, b2=0.95, weight_decay=1e-3),
            # The project does not clip x0, and 4 or 5 of its 64 published images are blank.
            sampler=dict(name="DDPM", variance="large", steps=steps, clip=True),
            train=dict(steps=100_000, batch_size=16),
        )

    def name_layer(self, layer: list[str], model: models.FiLMUNet) -> str:
        place, *inside = layer
        names = [_PLACES.get(place) or _name_level(place, last=len(model.multipliers) - 1)]
        return ".".join(names + [_LAYERS[name] for name in inside[:1]])

    def convert_kernel(self, layer: list[str], weight: np.ndarray, ndim: int) -> np.ndarray:
        if re.fullmatch(r"down\d+_sample", layer[0]):
            # Space-to-depth puts the channels first in the project, last here.
            weight = weight.reshape(weight.shape[:2])
            weight = einops.rearrange(weight, "out (c h w) -> out (h w c)", h=2, w=2)
        return transpose_kernel(weight, ndim)


def _read_multiplier(tensors: Tensors, level: int, width: int) -> int:
    name = f"downs.{level}.conv.conv1.weight"
    channels = find_shape(tensors, name, 4)[0]
    if channels % width:
        raise InteropError(f"tensor {name} has {channels} channels: must be a multiple of the first layer's {width}")
    return channels // width


def _read_heads(tensors: Tensors, heads: int) -> dict[str, int]:
    inner = find_shape(tensors, "mid.attn.fn.to_qkv.weight", 2)[0] // 3
    if inner % heads:
        raise InteropError(f"heads = {heads}: must divide the {inner} channels of attention")
    return dict(heads=heads, head_channels=inner // heads)


def _name_level(place: str, last: int) -> str:
    match = _LEVEL.fullmatch(place)
    assert match, place
    way, level, part = match[1], int(match[2]), match[3]
    where = f"downs.{level}" if way == "down" else f"ups.{last - level}"
    sample = "ds.1" if way == "down" else "us.1"
    return f"{where}.{_LEVEL_PARTS.get(part, sample)}"
