"""The command `verify`: certifies a sampler or schedule of the user's own, and refuses mistakes in one line."""

import re
from unittest import mock

import pytest

from diffusion_jax.cli.main import main
from diffusion_jax.verify.report import Row


@pytest.mark.slow
def test_the_command_certifies_a_user_s_sampler(capsys):
    assert main(["verify", "--sampler", "mistakes:Wrong(mistake='none')", "--schedule", "RectifiedFlow"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^mistakes:Wrong\(mistake='none'\).* pass$", printed, re.M)
    assert "all pass" in printed


@pytest.mark.parametrize("flags", [[], ["--all_grids"]])
def test_all_grids_is_passed_on(flags):
    with mock.patch("diffusion_jax.verify.run", return_value=[Row("c", "", 0.0, 1.0)]) as run:
        assert main(["verify", *flags]) == 0
    assert run.call_args.kwargs == {"all_grids": bool(flags)}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sampler", "DDMI"], "DDIM"),
        (["--sampler", "nowhere:Mine"], "nowhere"),
        (["--sampler", "DDIM(0.5)"], "name the arguments"),
        (["--schedule", "Cosine(steps=-1)"], "steps = -1"),
        (["extra"], '"extra"'),
        (["--sampler", "RK45"], "RK45.*chooses its own steps"),
        (
            ["--sampler", "DDIM(eta=x)"],
            r'--sampler "DDIM\(eta=x\)": .*\(x is not a value; put text in quotes and \(\) after',
        ),
        (["--sampler", "DDIM(eta=0.1, eta=0.2)"], r"\(eta is given twice\)"),
        (["--sampler", "DDIM("], r'--sampler "DDIM\(": must be a name, or as in DDIM\(eta=0.5\)$'),
        (["--sampler", "DDIM(eta=1.2)"], "--sampler: eta = 1.2: must be in"),
        (["--sampler", "mistakes:Unlucky"], "--sampler: Unlucky fails with KeyError: 'no such thing'"),
        (["--schedule", "mistakes:Unfinished"], "still lacks time"),
        (["--schedule", "Cosine(steps=100)"], "has 100 steps"),
        (["--sampler", "mistakes:Broken(fault='raises')"], "step fails with KeyError: 'out of luck'"),
        (["--schedule", "mistakes:BrokenBetas(fault='raises')"], r"betas\(\) fails with RuntimeError: oh$"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(arguments, words, capsys):
    assert main(["verify", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(words, error.strip())
