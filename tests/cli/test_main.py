import subprocess
import sys

import pytest

from diffusion_jax.cli.command import Group
from diffusion_jax.cli.main import MAIN, main


def commands(group=MAIN, words=()):
    """Every command with its words."""
    for word, one in group.commands.items():
        yield (*words, word)
        if isinstance(one, Group):
            yield from commands(one, (*words, word))


@pytest.mark.parametrize("words", [(), *commands()], ids=" ".join)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_has_a_help_of_its_own(words, flag, capsys):
    assert main([*words, flag]) == 0
    out = capsys.readouterr().out
    assert f"diffusion-jax {' '.join(words)}".strip() in out
    assert max(len(line) for line in out.splitlines()) <= 120


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            [],
            "diffusion-jax: a command is missing; use one of train, sample, edit, demo, import, export, ",
        ),
        (["trian"], 'diffusion-jax: "trian"; use one of train, sample'),
        (["edit"], "diffusion-jax edit: a command is missing; use one of image_to_image, inpaint"),
    ],
)
def test_an_unknown_command_lists_the_known_ones(words, message, capsys):
    assert main(words) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "diffusion_jax", "sample", "--help"],
        ["-m", "diffusion_jax", "train", "--config", "nope"],
        ["-m", "diffusion_jax", "edit", "inpaint", "--seed=-1"],
    ],
    ids=lambda arguments: " ".join(arguments[2:]),
)
def test_help_and_flag_errors_do_not_import_jax(arguments):
    done = subprocess.run([sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True)
    assert done.returncode == (0 if "--help" in arguments else 1)
    modules = [line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")]
    assert "absl.flags" in modules
    assert "jax" not in modules


@pytest.mark.parametrize("module", ["edit", "interop", "verify"])
def test_the_older_modules_start_the_same_command(module):
    command = [sys.executable, "-m", f"diffusion_jax.{module}", "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    word = {"interop": "import"}.get(module, module)
    assert done.stdout == MAIN.commands[word].describe() + "\n"
