"""The commands of the client: `stormdrain submit | status | wait | list | cancel | retry`.

options    what each of them takes; quick to import
commands   what each of them does
screen     where output goes: lines, JSON lines, a progress bar
show       pure: a job as a line and as a page; nothing from a server reaches a terminal as it came
"""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import NoReturn

from service import exits
from service.cli.options import COMMANDS, add_to, complete

__all__ = ["COMMANDS", "add_to", "complete", "run"]

PROGRAM = "stormdrain"
STOPPED = "stopped; what was accepted goes on"


def run(given: Namespace) -> int:
    """The exit code."""
    try:
        from service.cli import commands  # not above: `--help` and the server do without
    except ModuleNotFoundError as error:
        if error.name not in ("requests", "tqdm"):
            raise
        return fail(f"this needs {error.name}: pip install 'stormdrain[client]'", exits.USAGE)
    try:
        return commands.run(given)
    except KeyboardInterrupt:
        return fail(STOPPED, exits.STOPPED)
    except BrokenPipeError:
        leave_quietly()


def fail(sentence: str, code: int) -> int:
    print(f"{PROGRAM}: {sentence}", file=sys.stderr)
    return code


def leave_quietly() -> NoReturn:
    """Python would flush once more at its end, and complain."""
    import os

    os._exit(exits.PIPE)
