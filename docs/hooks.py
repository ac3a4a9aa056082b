"""mkdocs hooks: the tables of config fields and the API reference, made from the code when the site is built."""

import dataclasses
import inspect
import logging
import re
import types
from typing import Any

import diffusion_jax as dj
from diffusion_jax.config.components import Namespace
from diffusion_jax.config.fields import describe_fields
from diffusion_jax.runtime.mesh import MeshShape
from diffusion_jax.training.plan import Plan

log = logging.getLogger("mkdocs.hooks")  # warnings fail `mkdocs build --strict`

FIELDS_MARK = "<!-- fields -->"

# Heading on the page of configs -> the module whose public names may stand there, and their base class.
COMPONENTS = {
    "data": Namespace(dj.sources, dj.sources.Dataset),
    "model": Namespace(dj.models),
    "schedule": Namespace(dj.schedules, dj.schedules.Schedule),
    "prediction": Namespace(dj.predictions, dj.predictions.Prediction),
    "loss": Namespace(dj.losses, dj.losses.Loss),
    "loss.weighting": Namespace(dj.losses, dj.losses.Weighting),
    "loss.times": Namespace(dj.losses, dj.losses.Times),
    "sampler": Namespace(dj.samplers, dj.samplers.Sampler),
    "sampler.grid": Namespace(dj.grids, dj.grids.Grid),
}
SETTINGS = {"sampler": (dj.Sampling, dj.Guidance), "train": (Plan,), "mesh": (MeshShape,)}

TOP_LEVEL = "The top level"
_TOP_LEVEL_PAGE = "reference/index.md"


def on_config(config: Any) -> Any:
    """Adds the API reference to the navigation."""
    pages = [{f"dj.{name}": f"reference/{name}.md"} for name in public_modules()]
    config.nav.append({"API reference": [_TOP_LEVEL_PAGE, *pages]})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages of the API reference."""
    from mkdocs.structure.files import File

    for path, text in reference_pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """Puts the tables of config fields where the page of configs has its mark."""
    return markdown.replace(FIELDS_MARK, config_fields()) if page.file.src_uri == "configs.md" else markdown


def public_modules() -> list[str]:
    """Names of the public modules of `dj`, sorted."""
    return [name for name in sorted(dj.__all__) if isinstance(getattr(dj, name), types.ModuleType)]


def reference_pages() -> dict[str, str]:
    """Path -> Markdown of each page of the API reference."""
    pages = {f"reference/{name}.md": f"# dj.{name}\n\n::: diffusion_jax.{name}\n" for name in public_modules()}
    names = sorted(set(dj.__all__) - set(public_modules()) - {"__version__"}, key=str.lower)
    entries = "\n".join(f"::: diffusion_jax.{name}\n    options:\n      show_root_heading: true\n" for name in names)
    pages[_TOP_LEVEL_PAGE] = (
        "# API reference\n\nEverything below is reached as `dj.<name>` after `import diffusion_jax as dj`. "
        f"The public modules have a page each.\n\n{entries}"
    )
    return pages


def config_fields() -> str:
    """Markdown for every field of every component and section of a config."""
    parts = []
    for heading in COMPONENTS | SETTINGS:
        parts.append(f"### `{heading}`")
        parts += [component(cls) for cls in SETTINGS.get(heading, ())]
        if heading in COMPONENTS:
            namespace = COMPONENTS[heading]
            parts += [component(getattr(namespace.module, name)) for name in namespace.names()]
    return "\n\n".join(parts)


def component(cls: type) -> str:
    """Markdown for one component: its heading, the first paragraph of its docstring, a table of its fields."""
    summary = " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split())
    anchor = f"{cls.__module__.rpartition('.')[2]}-{cls.__name__}".lower()
    title = f"#### {cls.__name__} {{ #{anchor} }}\n\n{_plain(summary)}"
    fields = describe_fields(cls)
    for name, *_, line in fields:
        if not line:
            log.warning(
                "%s.%s has no line in the `Attributes:` section of its docstring; write one", cls.__name__, name
            )
    rows = [_row(*field) for field in fields]
    if not rows:
        return f"{title}\n\nNo fields."
    return "\n".join([f"{title}\n", "| field | type | default | meaning |", "|---|---|---|---|", *rows])


def _row(name: str, kind: Any, default: Any, line: str) -> str:
    return f"| `{name}` | `{_type_text(kind)}` | {_default_text(default)} | {_plain(line)} |"


def _type_text(kind: Any) -> str:
    text = kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)
    return re.sub(r"(?:\w+\.)+(\w+)", r"\1", text)  # names without their modules


def _default_text(default: Any) -> str:
    return "required" if default is inspect.Parameter.empty else f"`{_value_text(default)}`"


def _value_text(value: Any) -> str:
    """`value` as Python writes it, without the arguments of a component that are its defaults."""
    if not dataclasses.is_dataclass(value):
        return repr(value)
    fields = [f for f in dataclasses.fields(value) if getattr(value, f.name) != f.default]
    arguments = ", ".join(f"{f.name}={_value_text(getattr(value, f.name))}" for f in fields)
    return f"{type(value).__name__}({arguments})"


def _plain(text: str) -> str:
    """Text that Markdown shows as it stands: docstrings hold *, <, | and _ of formulas."""
    for character, shown in (("*", "\\*"), ("<", "&lt;"), ("|", "&#124;")):
        text = text.replace(character, shown)
    return text
