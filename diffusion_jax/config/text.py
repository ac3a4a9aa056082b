"""Components written as text, such as "DDIM(eta=0.5)" on a command line."""

import ast
from typing import Any

from diffusion_jax.config.components import ConfigError, Namespace, build
from diffusion_jax.config.sections import COMPONENTS, GRIDS
from diffusion_jax.process import schedules
from diffusion_jax.sampling import grids, samplers

__all__ = ["grid_from_text", "sampler_from_text", "schedule_from_text", "spec_from_text"]


def sampler_from_text(text: str, allow_code: bool = False) -> samplers.Sampler:
    """A sampler from text such as "DDPM" or "DDIM(eta=0.5)". Raises ConfigError, as `components.build` does.

    >>> sampler_from_text("DDIM(eta=0.5)")
    DDIM(eta=0.5)
    """
    return _from_text(text, COMPONENTS["sampler"], "sampler", "DDIM(eta=0.5)", allow_code)


def grid_from_text(text: str) -> grids.Grid:
    """A grid from text such as "Leading" or "UniformLogSNR(last=0.01)".

    >>> grid_from_text("Leading")
    Leading()
    """
    return _from_text(text, GRIDS, "grid", "UniformLogSNR(last=0.01)")


def schedule_from_text(text: str, allow_code: bool = False) -> schedules.Schedule:
    """A schedule from text such as "Cosine(steps=500)" or "Shifted(schedule=Cosine(), resolution=128)".

    >>> schedule_from_text("RectifiedFlow()")
    RectifiedFlow()
    """
    return _from_text(text, COMPONENTS["schedule"], "schedule", "Cosine(steps=500)", allow_code)


def spec_from_text(text: str, flag: str, example: str, allow_code: bool) -> dict[str, Any]:
    """A component as dict(name=..., **arguments), not looked up yet. Raises ConfigError for other text.

    >>> spec_from_text("MinSNR(gamma=5)", "config.loss.weighting", "MinSNR()", allow_code=False)
    {'name': 'MinSNR', 'gamma': 5}
    """
    module, colon, rest = text.strip().partition(":")  # "pkg.module:Mine(x=1)" is not a Python expression
    is_own = colon and module.replace(".", "").isidentifier()
    if is_own and not allow_code:
        raise ConfigError(f'--{flag} "{text}": must be a name of the library; use --allow_code to import your own')
    try:
        tree = ast.parse(rest if is_own else text.strip(), mode="eval").body
        spec = _parse_call(tree if isinstance(tree, ast.Call) else ast.Call(tree, [], []))
    except (SyntaxError, ValueError) as error:
        reason = f" ({error})" if type(error) is ValueError else ""  # Python's own messages do not help here
        raise ConfigError(f'--{flag} "{text}": must be a name, or as in {example}{reason}') from None
    if is_own:
        spec["name"] = f"{module}:{spec['name']}"
    return spec


def _from_text(text: str, namespace: Namespace, path: str, example: str, allow_code: bool = False) -> Any:
    spec = spec_from_text(text, path, example, allow_code)
    try:
        return build(spec, namespace, path, allow_code)
    except ConfigError as error:
        raise ConfigError(str(error).replace(f"config.{path}", f"--{path}", 1)) from error


def _parse_call(call: ast.Call) -> dict[str, Any]:
    """Name(a=1, b=Other()) as dict(name="Name", a=1, b=dict(name="Other")). Raises ValueError."""
    if call.args:
        raise ValueError("name the arguments")
    names = [str(keyword.arg) for keyword in call.keywords]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{repeated[0]} is given twice")
    values = [_parse_value(keyword.value) for keyword in call.keywords]
    return {"name": ast.unparse(call.func)} | dict(zip(names, values, strict=True))


def _parse_value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call):
        return _parse_call(node)
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ValueError(f"{ast.unparse(node)} is not a value; put text in quotes and () after a name") from None
