"""The networks that are measured, by name, and what a PyTorch twin of each needs to know."""

import dataclasses
from typing import Any

import jax
import numpy as np
from torch_twins import Twin

import diffusion_jax as dj

NETWORKS = ("digits", "unet32", "cifar10", "pokemon", "mnist", "mnist_original", "tiny")


@dataclasses.dataclass(frozen=True)
class Case:
    """A network and the problem that it is trained on, always by eps-prediction.

    Attributes:
      name: one of `NETWORKS`.
      model: the Flax network.
      schedule: the noise schedule.
      image_shape: (H, W, C).
      batch: the default batch size.
    """

    name: str
    model: Any
    schedule: dj.schedules.Schedule
    image_shape: tuple[int, int, int]
    batch: int

    @property
    def loss(self) -> dj.losses.DiffusionLoss:
        """The mean squared error of eps at uniform times; every label is used."""
        times = dj.losses.UniformTimes()
        return dj.losses.DiffusionLoss(self.schedule, dj.predictions.Eps(), times=times, label_drop=0.0)

    def draw_batch(self, batch: int) -> dict[str, np.ndarray]:
        """A training batch of random images, uint8 [B, H, W, C], and labels if the network has classes."""
        rng = np.random.default_rng(0)
        images = {"image": rng.integers(0, 256, (batch, *self.image_shape), np.uint8)}
        labels = {"label": rng.integers(0, self.model.num_classes or 1, batch, np.int32)}
        return images | labels if self.model.num_classes else images

    def count_parameters(self) -> int:
        """The number of trainable parameters."""
        state = jax.eval_shape(self.init, jax.random.key(0))
        return sum(leaf.size for leaf in jax.tree.leaves(state))

    def init(self, key: jax.Array) -> Any:
        """The first parameters."""
        zeros = jax.numpy.zeros
        return self.model.init(key, zeros((1, *self.image_shape)), zeros(1), zeros(1, int))


def find_case(name: str, dtype: str = "float32") -> Case:
    """Returns the network `name`, computed in `dtype`."""
    case = _CASES[name]()
    return dataclasses.replace(case, model=case.model.clone(dtype=dtype))


def _of_config(name: str, image_shape: tuple[int, int, int], batch: int, **changes: Any) -> Case:
    """The network and the schedule of a shipped config; `changes` are fields of the network."""
    config = getattr(dj.configs, name.partition("_")[0])()
    model = _construct(dj.models, config.model.to_dict() | changes)
    return Case(name, model, _construct(dj.schedules, config.schedule.to_dict()), image_shape, batch)


def _construct(module: Any, section: dict[str, Any]) -> Any:
    return getattr(module, section["name"])(**{key: value for key, value in section.items() if key != "name"})


def _unet32() -> Case:
    model = dj.models.UNet(channels=(64, 128, 192), blocks=1, attention=(8,))
    return Case("unet32", model, dj.schedules.Cosine(), (32, 32, 3), 32)


def _tiny() -> Case:
    model = dj.models.UNet(channels=(8, 16), blocks=1, attention=(4,), groups=4, num_classes=3)
    return Case("tiny", model, dj.schedules.Cosine(), (8, 8, 1), 4)


# What the published network of configs/mnist.py has instead of the config's corrections.
_ORIGINAL = {"stem": False, "attention": (28, 14, 7, 3)}
_CASES = {
    "digits": lambda: _of_config("digits", (8, 8, 1), 128),
    "unet32": _unet32,
    "cifar10": lambda: _of_config("cifar10", (32, 32, 3), 8 if jax.default_backend() == "cpu" else 128),
    "pokemon": lambda: _of_config("pokemon", (64, 64, 3), 16),
    "mnist": lambda: _of_config("mnist", (28, 28, 1), 128),
    "mnist_original": lambda: _of_config("mnist_original", (28, 28, 1), 128, **_ORIGINAL),
    "tiny": _tiny,
}


def describe_twin(case: Case, steps: int) -> Twin:
    """What PyTorch needs to build, train and sample the same network, in `steps` steps, as plain values."""
    height, width, channels = case.image_shape
    total = round(case.model.time_scale)  # T: the network of PyTorch takes k = t T
    times = np.arange(total + 1, dtype=np.float32) / total
    grid = dj.grids.Uniform()(case.schedule, steps)
    kind, settings = _SETTINGS[type(case.model).__name__](case.model, case.image_shape)
    return Twin(
        kind=kind,
        settings=settings,
        image_shape=(channels, height, width),
        num_classes=case.model.num_classes,
        alpha=np.asarray(case.schedule.alpha(times)).tolist(),
        sigma=np.asarray(case.schedule.sigma(times)).tolist(),
        grid=np.round(np.asarray(grid) * total).astype(int).tolist(),
        parameters=case.count_parameters(),
    )


def _unet_settings(model: Any, image_shape: tuple[int, int, int]) -> tuple[str, dict[str, Any]]:
    """Arguments of diffusers' UNet2DModel."""
    sides = [image_shape[0] // 2**level for level in range(len(model.channels))]
    attends = ["Attn" if side in model.attention else "" for side in sides]
    # One row more than classes, for "no class", as in our table.
    classes = {"num_class_embeds": model.num_classes + 1} if model.num_classes else {}
    return "unet", dict(
        sample_size=image_shape[0],
        in_channels=image_shape[2],
        out_channels=image_shape[2],
        block_out_channels=list(model.channels),
        layers_per_block=model.blocks,
        down_block_types=[f"{attend}DownBlock2D" for attend in attends],
        up_block_types=[f"{attend}UpBlock2D" for attend in reversed(attends)],
        attention_head_dim=None,  # one head, as wide as the level
        norm_num_groups=model.groups,
        norm_eps=1e-5,
        dropout=model.dropout,
        downsample_padding=model.downsample_padding,
        flip_sin_to_cos=False,
        freq_shift=1,
        **classes,
    )


def _film_settings(model: Any, image_shape: tuple[int, int, int]) -> tuple[str, dict[str, Any]]:
    sides = [image_shape[0] // 2**level for level in range(len(model.multipliers))]
    return "film", dict(
        width=model.width,
        multipliers=list(model.multipliers),
        attends=[side in model.attention for side in sides],
        channels=image_shape[2],
        groups=model.groups,
        heads=model.heads,
        head_channels=model.head_channels,
        time_offset=model.time_offset,
    )


def _convnext_settings(model: Any, image_shape: tuple[int, int, int]) -> tuple[str, dict[str, Any]]:
    sides = model.sides(image_shape[0])
    return "convnext", dict(
        channels=list(model.channels),
        strides=list(model.strides),
        sides=sides,
        attends=[side in model.attention for side in sides],
        last_width=model.last_width,
        expansion=model.expansion,
        embedding=model.embedding_width,
        num_classes=model.num_classes,
        in_channels=image_shape[2],
        steps=round(model.time_scale),
        stem=model.stem,
    )


_SETTINGS = {"UNet": _unet_settings, "FiLMUNet": _film_settings, "ConvNeXtUNet": _convnext_settings}
