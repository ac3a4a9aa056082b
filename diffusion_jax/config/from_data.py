"""Fields of a config whose defaults come from the data."""

from collections.abc import Mapping
from typing import Any

from diffusion_jax.config.components import argument_types, get_name
from diffusion_jax.config.sections import COMPONENTS

__all__ = ["with_classes"]

_GUIDANCE = 2.0


def with_classes(config: dict[str, Any], num_classes: int) -> dict[str, Any]:
    """`config`, plain JSON values, with `model.num_classes` of the data where it is left out.

    Guidance of the images that the run draws is then 2, unless it is set, or impossible because label_drop is 0. Set
    `model.num_classes` to 0 for a network without classes on data that have some. Networks that do not take
    `num_classes` stay as they are. Raises ConfigError for a section without a "name".

    >>> digits = {"model": {"name": "UNet"}, "loss": {"name": "DiffusionLoss"}, "sampler": {"name": "DDIM"}}
    >>> filled = with_classes(digits, 10)
    >>> filled["model"], filled["sampler"]
    ({'name': 'UNet', 'num_classes': 10}, {'name': 'DDIM', 'guidance': 2.0})
    """
    for section in ("model", "loss", "sampler"):
        get_name(config[section], section)
    model, loss, sampler = config["model"], config["loss"], config["sampler"]
    if not num_classes or "num_classes" in model or not _takes_classes(model):
        return config
    filled = {**config, "model": {**model, "num_classes": num_classes}}
    if loss.get("label_drop") != 0 and "guidance" not in sampler:
        filled["sampler"] = {**sampler, "guidance": _GUIDANCE}
    return filled


def _takes_classes(model: Mapping[str, Any]) -> bool:
    factory = COMPONENTS["model"].find(get_name(model, "model"), "model", allow_code=True)
    return "num_classes" in argument_types(factory)
