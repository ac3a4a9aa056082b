"""Commands and their flags, declared as values."""

import dataclasses
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags
from absl.flags import FlagValues
from ml_collections import ConfigDict

from diffusion_jax.cli.config_flag import take_config
from diffusion_jax.config.files import config_names

_WIDTH, _INDENT = 115, 26
_DEFINE: dict[Any, Callable[..., Any]] = {
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
    list: flags.DEFINE_list,
}
_VALUE = {int: "=N", float: "=X", str: "=TEXT", list: "=A,B,..."}


class Flag(NamedTuple):
    """One flag of a command.

    >>> Flag("size", int, "Side in pixels.", 8).describe()
    '  --size=N                Side in pixels. Default: 8.'
    """

    name: str
    kind: type | tuple[str, ...]  # bool, int, float, str, list (separated by commas), or the words to choose from
    help: str
    default: Any = None
    required: bool = False
    limits: Mapping[str, int] = {}  # lower_bound, upper_bound

    def define(self, options: FlagValues) -> None:
        if isinstance(self.kind, tuple):
            flags.DEFINE_enum(self.name, self.default, self.kind, self.help, flag_values=options)
        else:
            _DEFINE[self.kind](self.name, self.default, self.help, flag_values=options, **self.limits)

    def describe(self) -> str:
        """The flag's lines in the help of its command."""
        value = f"={'|'.join(self.kind)}" if isinstance(self.kind, tuple) else _VALUE.get(self.kind, "")
        head = f"  --{'[no]' * (self.kind is bool)}{self.name}{value}"
        note = " Required." if self.required else ""
        if self.default is not None and self.default is not False:
            note = f" Default: {self.default}."
        return _hang(head, self.help + note)


@dataclasses.dataclass(frozen=True)
class Command:
    """A sub-command of `diffusion-jax`.

    Attributes:
      name: the words that start the command.
      text: the help; its first line is the summary in the list of commands.
      flags: the flags that the command accepts.
      run: called with the parsed flags and the positional arguments; returns the exit code, None for 0.
      operands: the names of the positional arguments, all of them required.
      takes_config: requires --config and accepts --config.<field>; `run` receives the config after the flags.

    >>> size = Flag("size", int, "Side in pixels.", 8)
    >>> command = Command("tool draw", "Draws.", (size,), lambda options, name: print(name, options.size), ("NAME",))
    >>> command(["cat", "--size=16"])
    cat 16
    """

    name: str
    text: str
    flags: tuple[Flag, ...]
    run: Callable[..., int | None]
    operands: tuple[str, ...] = ()
    takes_config: bool = False

    def __call__(self, arguments: Sequence[str]) -> int | None:
        options = FlagValues()
        flags.DEFINE_bool("help", False, "Show this help.", short_name="h", flag_values=options)
        for flag in self.flags:
            flag.define(options)
        config, rest = take_config(arguments) if self.takes_config else (None, arguments)
        words = options([self.name, *rest])[1:]
        if options.help:
            print(self.describe(config))
            return None
        self._check(options, words)
        if not self.takes_config:
            return self.run(options, *words)
        if config is None:
            raise ValueError(f"--config: required, a file or one of {', '.join(config_names())}")
        return self.run(options, config, *words)

    def _check(self, options: FlagValues, words: list[str]) -> None:
        """Raises ValueError if a required flag or positional argument is missing, or one is left over."""
        missing = [f"--{flag.name}" for flag in self.flags if flag.required and not options[flag.name].value]
        missing += self.operands[len(words) :]
        if missing:
            raise ValueError(f"{missing[0]}: required; {self.name} --help shows an example")
        check_no_words(words[len(self.operands) :])

    def describe(self, config: ConfigDict | None = None) -> str:
        """The help of the command, with the fields of a config."""
        listed = [flag.describe() for flag in self.flags]
        lines = [self.text.strip(), "", "Flags:", *_describe_config_flags() * self.takes_config, *listed]
        if config is not None:
            from diffusion_jax.config.fields import describe_config  # imports JAX

            lines += ["", "Fields of this config:", *describe_config(config, "  --config.")]
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Group:
    """Commands that share their first words.

    Attributes:
      name: the words that start all of them.
      text: the help.
      commands: the commands by their next word.
    """

    name: str
    text: str
    commands: Mapping[str, "Command | Group"]

    def __call__(self, arguments: Sequence[str]) -> int | None:
        word, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
        if word in ("-h", "--help", "-help", "help"):
            print(self.describe())
            return None
        if word not in self.commands:
            found = f'"{word}"' if word else "a command is missing"
            raise ValueError(f"{self.name}: {found}; use one of {', '.join(self.commands)}, or --help")
        return self.commands[word](rest)

    def describe(self) -> str:
        """The help of the group."""
        listed = [_hang(f"  {word}", one.text.strip().splitlines()[0]) for word, one in self.commands.items()]
        more = f"{self.name} COMMAND --help explains a command and its flags."
        return "\n".join([self.text.strip(), "", "Commands:", *listed, "", more])


def _describe_config_flags() -> list[str]:
    names = ", ".join(config_names())
    file = f"A Python file with get_config(), or one of {names}; :NAME behind it chooses a variant. Required."
    field = "Sets a field of the config, such as --config.train.steps=500. --config=FILE --help lists the fields."
    return [_hang("  --config=FILE", file), _hang("  --config.FIELD=VALUE", field)]


def _hang(head: str, text: str) -> str:
    """`head` in the left column, `text` wrapped in the right one."""
    wrapped = textwrap.fill(text, _WIDTH, initial_indent=" " * _INDENT, subsequent_indent=" " * _INDENT)
    return f"{head}\n{wrapped}" if len(head) >= _INDENT - 1 else head + wrapped[len(head) :]


def check_no_words(words: Sequence[str]) -> None:
    """Raises ValueError if positional arguments remain.

    >>> check_no_words([])
    """
    if words:
        raise ValueError(f'unexpected argument "{words[0]}"; use --flag=value or --noflag, and no spaces in lists')
