"""Components written as text, such as "DDIM(eta=0.5)" on a command line."""

import ast
from typing import Any

from diffusion_jax.config.components import ConfigError, Namespace, build
from diffusion_jax.process import schedules
from diffusion_jax.sampling import grids, samplers

_SAMPLERS = Namespace(samplers, samplers.Sampler)
_GRIDS = Namespace(grids, grids.Grid)
_SCHEDULES = Namespace(schedules, schedules.Schedule)


def sampler_from_text(text: str, allow_code: bool = False) -> samplers.Sampler:
    """A sampler from "DDPM" or "DDIM(eta=0.5)", as a command line has it; see `components.build`."""
    return _from_text(text, _SAMPLERS, "sampler", "DDIM(eta=0.5)", allow_code)


def grid_from_text(text: str) -> grids.Grid:
    """A grid from "Leading" or "UniformLogSNR(last=0.01)", as a command line has it."""
    return _from_text(text, _GRIDS, "grid", "UniformLogSNR(last=0.01)")


def schedule_from_text(text: str, allow_code: bool = False) -> schedules.Schedule:
    """A schedule from "Cosine(steps=500)" or "Shifted(schedule=Cosine(), resolution=128)"."""
    return _from_text(text, _SCHEDULES, "schedule", "Cosine(steps=500)", allow_code)


def _from_text(text: str, namespace: Namespace, path: str, example: str, allow_code: bool = False) -> Any:
    module, colon, rest = text.strip().partition(":")  # "pkg.module:Mine(x=1)" is no Python
    code = colon and module.replace(".", "").isidentifier()
    if code and not allow_code:
        raise ConfigError(f'--{path} "{text}": is code of your own; give --allow_code to import it')
    try:
        tree = ast.parse(rest if code else text.strip(), mode="eval").body
        spec = _spec(tree if isinstance(tree, ast.Call) else ast.Call(tree, [], []))
    except (SyntaxError, ValueError) as error:
        reason = f" ({error})" if type(error) is ValueError else ""  # Python's own text helps nobody
        raise ConfigError(f'--{path} "{text}": must be a name, or as in {example}{reason}') from None
    if code:
        spec["name"] = f"{module}:{spec['name']}"
    try:
        return build(spec, namespace, path, allow_code)
    except ConfigError as error:
        raise ConfigError(str(error).replace(f"config.{path}", f"--{path}", 1)) from error


def _spec(call: ast.Call) -> dict[str, Any]:
    """Name(a=1, b=Other()) as dict(name="Name", a=1, b=dict(name="Other")). Raises ValueError."""
    if call.args:
        raise ValueError("name the arguments")
    names = [str(k.arg) for k in call.keywords]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name} is given twice")
    return {"name": ast.unparse(call.func)} | {str(k.arg): _value(k.value) for k in call.keywords}


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call):
        return _spec(node)
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ValueError(f"{ast.unparse(node)} is no number; put text in quotes, () behind a name") from None
