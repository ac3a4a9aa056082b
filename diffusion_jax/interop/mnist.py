"""The ConvNeXt U-Net of github.com/okarthikb/diffusion, trained on MNIST."""

import re
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffusion_jax import models
from diffusion_jax.interop.error import InteropError
from diffusion_jax.interop.project import ImageShape, Project, Settings
from diffusion_jax.interop.weights import Tensors, find_shape, transpose_kernel
from diffusion_jax.models.convnext_unet import interleaved_sinusoid

# The sines of times 0 .. T. We compute them, but their number tells T.
_TABLE = "t_emb"
_STRIDES = (2, 2, 3)

# Our name of a layer -> the project's. Level i of our way up is number (last - i) in the project.
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


class MNIST(Project):
    """Defaults, where the tensors do not tell: images of 28x28, and T = 500 if the table of sines is missing."""

    mark = "class_emb.weight"

    def read_config(self, tensors: Tensors, settings: Settings) -> tuple[dict[str, Any], ImageShape]:
        for name in ("heads", "groups"):
            if (value := getattr(settings, name)) is not None:
                raise InteropError(f"{name} = {value}: this network always has 1; leave the setting out")
        image_size = settings.image_size or 28
        num_classes, embedding_width = find_shape(tensors, self.mark, 2)
        steps = _read_steps(tensors, settings.steps, embedding_width)
        blocks = [f"downblocks.{level}.0" for level in range(len(_STRIDES) + 1)]
        channels = tuple(find_shape(tensors, f"{block}.sequential.4.weight", 4)[0] for block in blocks)
        model = dict(
            name="ConvNeXtUNet",
            channels=channels,
            strides=_STRIDES,
            last_width=find_shape(tensors, "upblocks.2.0.sequential.4.weight", 4)[0],
            attention=tuple(dict.fromkeys(models.ConvNeXtUNet(strides=_STRIDES).sides(image_size))),
            expansion=find_shape(tensors, f"{blocks[0]}.sequential.1.weight", 4)[0] // channels[0],
            embedding_width=embedding_width,
            num_classes=num_classes,
            stem=False,
            time_scale=float(steps),
            time_offset=1.0,
            dtype="float32",
        )
        # The project's table ends at abar = 2e-15, where eps no longer determines x0. The usual clip of beta
        # changes only that entry.
        schedule = dict(name="Cosine", steps=steps, max_beta=0.999)
        config = dict(model=model, schedule=schedule, prediction=dict(name="Eps"))
        in_channels = find_shape(tensors, f"{blocks[0]}.ds_conv.weight", 4)[0]
        return config | self._training_sections(steps), (image_size, image_size, in_channels)

    def _training_sections(self, steps: int) -> dict[str, Any]:
        """The project's training, and a correct DDIM to sample with."""
        return dict(
            data=dict(name="TFDS", dataset="mnist"),
            loss=dict(name="DiffusionLoss", label_drop=0.0),
            optimizer=dict(name="adam", lr_schedule=1e-3),
            sampler=dict(name="DDIM", eta=0.0, steps=min(50, steps), clip=True),
            train=dict(steps=9360, batch_size=128),
        )

    def name_layer(self, layer: list[str], model: models.ConvNeXtUNet) -> str:
        levels = len(model.strides)
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

    def convert_kernel(self, layer: list[str], weight: np.ndarray, ndim: int) -> np.ndarray:
        if re.fullmatch(r"up\d+_sample", layer[0]):
            # A transposed convolution's (in, out, h, w) correlates with the kernel turned by 180 degrees.
            return weight.transpose(2, 3, 0, 1)[::-1, ::-1]
        return transpose_kernel(weight, ndim)

    def convert(self, tensors: Tensors, model: models.ConvNeXtUNet, image_shape: ImageShape) -> dict[str, Any]:
        learned = {name: tensor for name, tensor in tensors.items() if name != _TABLE}
        return super().convert(learned, model, image_shape)


def _read_steps(tensors: Tensors, steps: int | None, width: int) -> int:
    """Returns T, from the length of the table of sines if there is one."""
    if _TABLE not in tensors:
        return steps or 500
    rows, columns = find_shape(tensors, _TABLE, 2)
    if columns != width or width % 2:
        raise InteropError(f"tensor {_TABLE} is {columns} wide, tensor {MNIST.mark} {width}: must be equal and even")
    sines = interleaved_sinusoid(jnp.arange(1.0, rows + 1), width)
    if not np.allclose(np.asarray(tensors[_TABLE], np.float32), sines, atol=1e-2):
        raise InteropError(f"tensor {_TABLE} is not the table of sines of this network")
    if steps not in (None, rows - 1):
        raise InteropError(f"steps = {steps}: must be {rows - 1}, from the length of tensor {_TABLE}; leave it out")
    return rows - 1
