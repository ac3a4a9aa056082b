"""The `sampler` section of a config: a sampler, its grid, and the other settings of `Sampling`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from diffusion_jax.config.components import argument_types, build, build_section, construct, convert
from diffusion_jax.config.sections import COMPONENTS, GRIDS
from diffusion_jax.run import Guidance, Sampling

__all__ = ["SETTING_TYPES", "build_sampling"]

_SETTINGS = {field.name for field in dataclasses.fields(Sampling)} - {"sampler"}
# Field of the section -> field of `Guidance` and its type.
_GUIDANCE: dict[str, tuple[str, Any]] = {
    "guidance": ("scale", float),
    "guidance_interval": ("interval", tuple[float, ...]),
    "guidance_rescale": ("rescale", float),
}
# The fields of the section that are not arguments of the sampler, with their types.
SETTING_TYPES: dict[str, Any] = {name: kind for name, kind in argument_types(Sampling).items() if name in _SETTINGS}
SETTING_TYPES |= {name: kind for name, (_, kind) in _GUIDANCE.items()}


def build_sampling(spec: Mapping[str, Any], allow_code: bool) -> Sampling:
    """The settings that dict(name="DDIM", eta=0.0, steps=50, guidance=1.0, ...) describes.

    guidance, guidance_interval and guidance_rescale are the fields of `Guidance`; what is not a field of `Sampling`
    either is an argument of the sampler.

    >>> build_sampling({"name": "DDIM", "eta": 0.5, "steps": 20, "guidance": 2.0}, allow_code=False).guidance.scale
    2.0
    """
    own_fields = _SETTINGS | _GUIDANCE.keys()
    sampler = build(spec, COMPONENTS["sampler"], "sampler", allow_code, own_fields)
    guidance = {
        field: convert(spec[key], kind, f"sampler.{key}") for key, (field, kind) in _GUIDANCE.items() if key in spec
    }
    settings = {key: value for key, value in spec.items() if key in _SETTINGS and key not in _GUIDANCE}
    if "grid" in settings:
        settings["grid"] = build(settings["grid"], GRIDS, "sampler.grid", allow_code)
    settings |= {"sampler": sampler, "guidance": construct(Guidance, "sampler", **({"scale": 1.0} | guidance))}
    return build_section(Sampling, settings, "sampler")
