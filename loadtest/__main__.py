"""`python -m loadtest [run | stages | chaos | bench] [options]`: which subcommand, which exit code."""

import signal
import sys
from argparse import ArgumentParser
from typing import Any, NoReturn, Protocol

from . import bench, chaos, run, settings, stages
from .exits import Exit, Unusable


class Command(Protocol):
    """What a module must have to be a subcommand."""

    HELP: str
    OPTIONS: tuple[settings.Option, ...]

    def main(self, values: dict[str, Any], /) -> Exit: ...


COMMANDS: dict[str, Command] = {"run": run, "stages": stages, "chaos": chaos, "bench": bench}
DEFAULT = "run"

STOPPED = "Stopped. What a running stack has accepted stays accepted: it finishes it without us."


class Parser(ArgumentParser):
    """Ends with a sentence instead of argparse's page of usage."""

    def error(self, message: str) -> NoReturn:
        raise Unusable(f"{message[:1].upper()}{message[1:]}. See python -m loadtest --help.")


def build_parser() -> Parser:
    about = f"Load generator for Stormdrain. Without a command it does `{DEFAULT}`."
    parser = Parser(prog="python -m loadtest", description=about, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, command in COMMANDS.items():
        options = commands.add_parser(name, help=command.HELP, description=command.HELP, allow_abbrev=False)
        for option in command.OPTIONS:
            option.add_to(options)
    return parser


def with_default(arguments: list[str]) -> list[str]:
    """`--n 5` means `run --n 5`; `--help` stays the help of all commands."""
    first = arguments[0] if arguments else ""
    named = first and not first.startswith("-")
    return arguments if named or first in ("-h", "--help") else [DEFAULT, *arguments]


def main(arguments: list[str]) -> Exit:
    # `docker stop` sends SIGTERM: it ends the run as Ctrl-C does, client processes first.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        given = build_parser().parse_args(with_default(arguments))
        command = COMMANDS[given.command]
        return command.main(settings.read(command.OPTIONS, given))
    except Unusable as error:
        print(error, file=sys.stderr)
        return Exit.UNUSABLE
    except KeyboardInterrupt:
        print(STOPPED, file=sys.stderr)
        return Exit.STOPPED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
