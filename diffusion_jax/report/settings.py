"""The configuration of a run, and what is known of where it was trained."""

import json
from typing import Any, NamedTuple

from diffusion_jax.config.defaults import with_defaults
from diffusion_jax.config.description import check_config
from diffusion_jax.report.files import Note, noted, read_file
from diffusion_jax.runtime.checkpoint import Checkpoints
from diffusion_jax.runtime.place import Place, complete_steps
from diffusion_jax.workdir.resume import flatten

__all__ = ["RunSettings", "read_settings"]

Texts = dict[str, str]


class RunSettings(NamedTuple):
    """The fields of a config such as "train.steps" as text, those among them that are defaults, and other facts."""

    config: Texts
    defaults: frozenset[str]
    facts: Texts


def read_settings(workdir: Place, note: Note) -> RunSettings:
    """Reads config.json, and the description in the newest checkpoint, which holds the config as well."""
    written, described = _read_config_json(workdir, note), _read_description(workdir, note)
    config, defaults = dict[str, str](), frozenset[str]()
    for name, content in (("config.json", written), ("the config in the newest checkpoint", described)):
        with noted(name, note):
            if not config and "config" in content:
                config, defaults = _fill_config(content["config"])
    return RunSettings(config, defaults, _facts(described | written))


def _read_config_json(workdir: Place, note: Note) -> dict[str, Any]:
    with noted("config.json", note):
        data = read_file(workdir / "config.json")
        content = {} if data is None else json.loads(data)
        if not isinstance(content, dict):
            raise ValueError("it does not hold a config")
        return content
    return {}


def _read_description(workdir: Place, note: Note) -> dict[str, Any]:
    with noted("the description in the newest checkpoint", note):
        directory = workdir / "checkpoints"
        if complete_steps(directory):
            with Checkpoints(directory, read_only=True) as checkpoints:
                return checkpoints.describe()
    return {}


def _fill_config(config: Any) -> tuple[Texts, frozenset[str]]:
    """The fields with the defaults filled in, as text, and the names of those that are defaults."""
    check_config(config)
    recorded, complete = flatten(config), flatten(with_defaults(config))
    texts = {name: _as_text(value) for name, value in sorted(complete.items())}
    return texts, frozenset(texts.keys() - recorded.keys())


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _facts(content: dict[str, Any]) -> Texts:
    """What a run's files say beside the config; values of another form are left out."""
    versions = content.get("versions")
    versions = versions if isinstance(versions, dict) else {}
    shape = content.get("image_shape")
    found = {
        "diffusion_jax": versions.get("diffusion_jax"),
        "jax": versions.get("jax"),
        "python": versions.get("python"),
        "devices": content.get("devices"),
        "data fingerprint": content.get("data"),
        "image": "x".join(map(_short, shape)) if isinstance(shape, list) else None,
        "classes": content.get("num_classes"),
        "imported from": content.get("imported_from"),
        "changed on resume": _changes(content.get("changes")),
    }
    return {name: _short(value) for name, value in found.items() if isinstance(value, int | str)}


def _changes(changes: Any) -> str | None:
    """Such as "train.batch_size from 8 to 16 at step 600"; None if nothing was changed."""
    known = [each for each in changes if isinstance(each, dict)] if isinstance(changes, list) else []
    texts = ["{field} from {before} to {after} at step {step}".format_map(_Known(each)) for each in known]
    return "; ".join(texts) or None


class _Known(dict):
    """Values of a change, with "?" for one that is missing."""

    def __missing__(self, key: str) -> str:
        return "?"


def _short(value: Any) -> str:
    return str(value)[:200] if isinstance(value, int | str) else "?"
