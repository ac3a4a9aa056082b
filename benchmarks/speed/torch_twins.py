"""The networks in PyTorch: diffusers' UNet2DModel, two networks rebuilt, and lucidrains' Unet. Nothing of JAX.

PyTorch is imported only when a network is built.
"""

import dataclasses
from typing import Any

MISSING = "not installed; pip install -e '.[benchmark]'"
# Where the network of PyTorch comes from.
ORIGINS = {"unet": "diffusers' UNet2DModel", "film": "torch_film.py", "convnext": "torch_convnext.py"}
# lucidrains' Unet with about as many parameters as the twin has: (dim, dim_mults).
_LUCIDRAINS = {
    702_753: (30, (1, 2)),
    7_202_691: (54, (1, 2, 4)),
    35_746_307: (64, (1, 2, 4, 8)),
    22_171_779: (50, (1, 2, 4, 8)),
    2_038_910: (28, (1, 2, 4)),
    2_038_132: (28, (1, 2, 4)),
}


class Unavailable(Exception):
    """A rival that cannot run here; the message is its row in the table."""


@dataclasses.dataclass(frozen=True)
class Twin:
    """A network for PyTorch, in plain values.

    Attributes:
      kind: "unet" (diffusers), "film", "convnext" (rebuilt) or "lucidrains" (another architecture).
      settings: the arguments of the network.
      image_shape: (C, H, W).
      num_classes: 0 for an unconditional network.
      alpha, sigma: of the noise schedule at k = 0 .. T, [T + 1].
      grid: k at each time of sampling, from T down to 0, [steps + 1].
      parameters: how many the network must have; 0 if it is another architecture.
    """

    kind: str
    settings: dict[str, Any]
    image_shape: tuple[int, int, int]
    num_classes: int
    alpha: list[float]
    sigma: list[float]
    grid: list[int]
    parameters: int


def lucidrains_twin(twin: Twin) -> Twin:
    """The nearest network of lucidrains' package for the images of `twin`, without classes."""
    dim, multipliers = _LUCIDRAINS.get(twin.parameters, (8, (1, 2)))
    settings = {"dim": dim, "dim_mults": multipliers, "channels": twin.image_shape[0]}
    return dataclasses.replace(twin, kind="lucidrains", settings=settings, num_classes=0, parameters=0)


def build(twin: Twin) -> Any:
    """Returns the network: forward(x [B, C, H, W], k [B], labels [B]) -> eps [B, C, H, W].

    Raises Unavailable if a package is missing, and RuntimeError if the number of parameters is not that of `twin`.
    """
    try:
        network = _BUILD[twin.kind](twin.settings)
    except ImportError as error:
        raise Unavailable(MISSING) from error
    found = count_parameters(network)
    if twin.parameters and found != twin.parameters:
        raise RuntimeError(f"parameters = {found:,}: must be {twin.parameters:,}, those of the network in JAX")
    return network


def count_parameters(network: Any) -> int:
    """The number of trainable parameters."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def _build_unet(settings: dict[str, Any]) -> Any:
    import diffusers
    import torch

    class UNet(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unet = diffusers.UNet2DModel(**settings)

        def forward(self, x: Any, k: Any, labels: Any) -> Any:
            classes = {"class_labels": labels} if "num_class_embeds" in settings else {}
            return self.unet(x, k, return_dict=False, **classes)[0]

    return UNet()


def _build_film(settings: dict[str, Any]) -> Any:
    from torch_film import FiLMUNet

    return FiLMUNet(**settings)


def _build_convnext(settings: dict[str, Any]) -> Any:
    from torch_convnext import ConvNeXtUNet

    return ConvNeXtUNet(**settings)


def _build_lucidrains(settings: dict[str, Any]) -> Any:
    import torch
    from denoising_diffusion_pytorch import Unet

    class Unconditional(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unet = Unet(**settings)

        def forward(self, x: Any, k: Any, labels: Any) -> Any:
            return self.unet(x, k)

    return Unconditional()


_BUILD = {
    "unet": _build_unet,
    "film": _build_film,
    "convnext": _build_convnext,
    "lucidrains": _build_lucidrains,
}
