import pytest

from diffusion_jax.cli.command import Command, Flag


def command(**kwargs) -> tuple[Command, list]:
    """A command that records what it is called with."""
    calls: list = []
    flags = (
        Flag("n", int, "Number of things.", 3, limits={"lower_bound": 1}),
        Flag("kind", ("red", "green"), "Colour of things."),
        Flag("parts", list, "Parts of things."),
        Flag("fast", bool, "Hurry.", False),
        Flag("where", str, "Place of things.", required=True),
    )
    run = lambda options, *words: calls.append((options.flag_values_dict(), words))  # noqa: E731
    return Command("tool things", "Makes things.\n\nMore.", flags, run, **kwargs), calls


def test_flags_are_parsed_to_their_kinds_in_any_order():
    make, calls = command(operands=("FILE",))
    make(["--kind", "green", "a.pt", "--parts=x,y", "--fast", "--where", "here"])
    ((values, words),) = calls
    assert words == ("a.pt",)
    assert values | {"help": False} == {
        "help": False,
        "h": False,
        "n": 3,
        "kind": "green",
        "parts": ["x", "y"],
        "fast": True,
        "where": "here",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a"], "--where: required; tool things --help"),
        (["--where=x"], "FILE: required; tool things --help"),
        (["--where=x", "a", "b"], 'unexpected argument "b"; use --flag=value or --noflag'),
        (["--where=x", "--fast", "false", "a"], 'unexpected argument "a"'),
        (["--where=x", "a", "--n=0"], "flag --n=0"),
        (["--where=x", "a", "--n=many"], "flag --n=many"),
        (["--where=x", "a", "--kind=blue"], "flag --kind=blue"),
        (["--where=x", "a", "--colour=blue"], "Unknown command line flag 'colour'"),
    ],
)
def test_what_is_missing_unknown_or_wrong_is_refused(arguments, message):
    make, calls = command(operands=("FILE",))
    with pytest.raises(Exception, match=message):
        make(arguments)
    assert not calls


def test_help_shows_each_flag_with_its_default(capsys):
    make, calls = command()
    assert make(["--help"]) is None
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == ["Makes things.", "", "More.", ""]
    assert lines[4:] == [
        "Flags:",
        "  --n=N                   Number of things. Default: 3.",
        "  --kind=red|green        Colour of things.",
        "  --parts=A,B,...         Parts of things.",
        "  --[no]fast              Hurry.",
        "  --where=TEXT            Place of things. Required.",
    ]
    assert not calls


def test_commands_do_not_share_flags():
    first, _ = command()
    second, calls = command()
    first(["--where=x", "--n=5"])
    second(["--where=y"])
    assert calls[0][0]["n"] == 3
