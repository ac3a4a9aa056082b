"""README and site: their Python runs, their commands and links exist, and the page of configs is complete."""

import contextlib
import dataclasses
import functools
import importlib.util
import inspect
import io
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import jax
import pytest
import tiny
from slow import slow

import diffusion_jax as dj
from diffusion_jax.cli.main import main
from diffusion_jax.config.experiment import Experiment, as_plain
from diffusion_jax.runtime.mesh import MeshShape
from diffusion_jax.training.plan import Plan

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "CHANGELOG.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"(<!-- not run: .+? -->\n)?^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def read(page):
    return (ROOT / page).read_text()


def examples(page):
    """[(line, code)] of the Python blocks of a page that run."""
    text = read(page)
    return [(text.count("\n", 0, m.start(2)), m[2]) for m in FENCE.finditer(text) if not m[1]]


def outside_of_fences(text):
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="session")
def hooks():
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """Puts a test where a reader who has trained `runs/digits` is."""
    with tarfile.open(ROOT / "tests" / "data" / "run_0_1_0.tar.xz") as archive:
        archive.extractall(tmp_path / "runs", filter="data")
    (tmp_path / "runs" / "run_0_1_0").rename(tmp_path / "runs" / "digits")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def small_network(reader, monkeypatch):
    """Runs are trained and loaded with a network of a few numbers, which compiles faster than a U-Net."""
    train, load, model = dj.train, dj.load, tiny.Affine()

    def train_small(config, *args, **kwargs):
        plain = {"data": {"name": "Digits"}} | as_plain(config)
        Experiment.from_config(plain, (8, 8, 1), 10)  # refuses what the page's own model cannot do
        return train(plain | {"model": tiny.AFFINE}, *args, **kwargs)

    def load_small(*args, **kwargs):
        run = load(*args, **kwargs | {"allow_code": True})
        params = model.init(None, None, jax.numpy.zeros(1), None)
        return dataclasses.replace(run, network=dataclasses.replace(run.network, model=model), params=params)

    monkeypatch.setattr(dj, "train", train_small)
    monkeypatch.setattr(dj, "load", load_small)


WITH_THE_RUN_ITSELF = {"README.md", "docs/checkpoints.md", "docs/fine-tuning.md", "docs/pretrained.md"}
LONG = [
    "docs/editing.md",
    "docs/export.md",  # its ten lines run in tests/run/test_export.py
    "docs/fine-tuning.md",
    "docs/guidance.md",
    "docs/likelihood.md",
    "docs/preflight.md",
    "docs/sampling.md",
    "docs/training.md",
]


@pytest.mark.parametrize("page", [*(page for page in PAGES if examples(page) and page not in LONG), *slow(*LONG)])
def test_the_python_of_a_page_runs(page, request):
    if page == "docs/export.md":
        pytest.importorskip("flatbuffers", reason='pip install -e ".[export]"')
    request.getfixturevalue("reader" if page in WITH_THE_RUN_ITSELF else "small_network")
    names = {"__name__": "a_page"}
    with contextlib.redirect_stdout(io.StringIO()):
        for line, code in examples(page):
            exec(compile("\n" * line + code, page, "exec"), names)


def test_most_python_runs():
    blocks = sum(read(page).count("```python") for page in PAGES)
    assert sum(len(examples(page)) for page in PAGES) >= blocks - 1


def test_the_readme_is_short():
    assert len(read("README.md").split()) <= 1300


@pytest.mark.parametrize("page", PAGES)
def test_no_line_is_longer_than_120_columns(page):
    text = read(page) if page == "README.md" else outside_of_fences(read(page))
    assert [line for line in text.splitlines() if len(line) > 120] == []


def test_the_readme_has_the_command_that_ci_runs():
    assert '    pip install -e ".[test]" && pytest' in read("README.md").splitlines()


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page, hooks):
    """Files and headings; `mkdocs build --strict` checks the site's own links again."""
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", read(page)):
        path, _, anchor = target.partition("#")
        if path.startswith("reference/"):  # made by docs/hooks.py
            continue
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        assert not anchor or anchor in headings(file.read_text()) | set(hooks.COMPONENTS), target


def headings(text):
    """The anchors of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", outside_of_fences(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


# Groups of components, by their base class; a config names them.
GROUPS = {
    dj.schedules.Schedule: dj.schedules,
    dj.predictions.Prediction: dj.predictions,
    dj.losses.Loss: dj.losses,
    dj.losses.Times: dj.losses,
    dj.losses.Weighting: dj.losses,
    dj.samplers.Sampler: dj.samplers,
    dj.grids.Grid: dj.grids,
    dj.sources.Dataset: dj.sources,
}


def is_concrete(cls):
    """Whether a config can name a class: not a base class."""
    return cls not in GROUPS and not inspect.isabstract(cls)


def components():
    """Every public component that a config can name, and the sections without a name."""
    for base, module in GROUPS.items():
        public = [getattr(module, name) for name in module.__all__]
        yield from (cls for cls in public if isinstance(cls, type) and issubclass(cls, base) and is_concrete(cls))
    yield from (getattr(dj.models, name) for name in dj.models.__all__ if name != "from_nnx")
    yield from (dj.Sampling, dj.Guidance, Plan, MeshShape)


@pytest.mark.parametrize("cls", [*components()], ids=lambda cls: f"{cls.__module__.split('.')[-1]}.{cls.__name__}")
def test_every_field_of_a_component_is_on_the_page_of_configs(cls, hooks):
    anchor = f"{cls.__module__.rpartition('.')[2]}-{cls.__name__}".lower()
    _, found, section = hooks.config_fields().partition(f"#### {cls.__name__} {{ #{anchor} }}\n")
    assert found
    rows = dict(re.findall(r"^\| `(\w+)` \| `.+?` \| .+ \| (.*) \|$", section.partition("\n#### ")[0], re.MULTILINE))
    expected = [field.name for field in dataclasses.fields(cls) if field.name not in ("parent", "name")]
    assert sorted(rows) == sorted(expected)
    assert [name for name, line in rows.items() if not line] == []


def test_the_api_reference_has_a_page_for_each_public_module(hooks):
    pages = hooks.reference_pages()
    shown = set(re.findall(r"^::: diffusion_jax\.(\w+)$", "\n".join(pages.values()), re.MULTILINE))
    assert shown == set(dj.__all__) - {"__version__"}
    assert len(pages) == 1 + len(hooks.public_modules())


def test_doctests_are_shown_as_code():
    pytest.importorskip("griffe")
    spec = importlib.util.spec_from_file_location("docs_docstrings", ROOT / "docs" / "docstrings.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = "A line.\n\n>>> f(1)\n2\n>>> f(2)\n3\n\nAnother."
    assert module.fenced(text) == "A line.\n\n```pycon\n>>> f(1)\n2\n>>> f(2)\n3\n```\n\nAnother."


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "site" / "reference" / "samplers" / "index.html").exists()


@pytest.mark.parametrize("page", PAGES)
def test_the_benchmarks_that_are_named_have_the_flags_that_are_named(page):
    text = read(page).replace("\\\n", " ")
    for path, arguments in re.findall(r"python (benchmarks/\w+\.py)(.*)", text):
        source = read(path)
        for flag in re.findall(r"--(\w+)", arguments):
            assert re.search(rf'DEFINE_\w+\(\s*"{flag}"', source), f"{path} --{flag}"


def commands():
    """(page, words of the command, its arguments) of each `diffusion-jax ...` on a page."""
    for page in PAGES:
        text = read(page).replace("\\\n", " ")
        for words, arguments in re.findall(r"diffusion-jax ((?:edit )?[a-z]\w+)\b([^`|#\n]*)", text):
            yield page, words, arguments


@functools.cache
def help_of(*arguments):
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        assert main([*arguments, "--help"]) == 0
    return shown.getvalue()


@pytest.mark.parametrize(("page", "words", "arguments"), sorted(set(commands())))
def test_the_commands_that_are_named_have_the_flags_that_are_named(page, words, arguments):
    known = help_of(*words.split()).replace("[no]", "") + "--help"
    for flag in re.findall(r"--(\w+)(?![\w.])", arguments):
        assert re.search(rf"--({flag}|{flag.removeprefix('no')})\b", known), f"{words} --{flag}"
    config = re.search(r"--config[ =]([\w/.:]+)", arguments)
    if config and config[1] != "my_config.py":
        fields = help_of("train", "--config", config[1])
        for field in re.findall(r"--config\.([\w.]+)", arguments):
            assert f"--config.{field} =" in fields, field
