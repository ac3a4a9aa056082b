"""Fields of a config that come from the data."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from diffusion_jax.config.components import argument_types, build, get_name
from diffusion_jax.config.sections import COMPONENTS
from diffusion_jax.data.sources import Dataset, UserData

__all__ = ["with_classes", "with_dataset"]

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


def with_dataset(config: dict[str, Any], dataset: Any) -> tuple[dict[str, Any], Dataset]:
    """`config`, plain JSON values, for data that come from Python, and these data as a `Dataset`.

    The section `data` then describes a data set of the library by its fields, and other data as `UserData` without
    them. If the section of `config` is of `UserData`, it holds the settings of arrays and sequences; of another
    section, only `flip` counts for these. Raises ConfigError for settings that do not exist.

    >>> config, dataset = with_dataset({"data": {"name": "UserData", "holdout": 5}}, np.zeros((20, 8, 8, 1), np.uint8))
    >>> config["data"], len(dataset.open()[0])
    ({'name': 'UserData', 'holdout': 5}, 16)
    >>> with_dataset({}, dj.sources.Digits(flip=True))[0]
    {'data': {'name': 'Digits', 'flip': True}}
    """
    spec: dict[str, Any] = {"name": UserData.__name__}
    if not isinstance(dataset, Dataset):
        section = config.get("data", {})
        if isinstance(section, Mapping) and section.get("name") == spec["name"]:
            spec = dict(section)
        elif isinstance(section, Mapping) and section.get("flip"):
            spec["flip"] = section["flip"]  # part of the recipe, whatever the images are
        return {**config, "data": spec}, build(spec, COMPONENTS["data"], "data", data=dataset)
    fields = {field.name: getattr(dataset, field.name) for field in dataclasses.fields(dataset)}
    if type(dataset).__name__ in COMPONENTS["data"].names() and type(dataset).__module__.startswith(_LIBRARY):
        spec = {"name": type(dataset).__name__, **fields}
        spec.pop("data", None)  # of UserData
    else:
        spec["flip"] = dataset.flip
    return {**config, "data": spec}, dataset


_LIBRARY = Dataset.__module__.partition(".")[0] + "."


def _takes_classes(model: Mapping[str, Any]) -> bool:
    factory = COMPONENTS["model"].find(get_name(model, "model"), "model", allow_code=True)
    return "num_classes" in argument_types(factory)
