"""What each command takes."""

from __future__ import annotations

import math
from argparse import ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter, _SubParsersAction

COMMANDS = ("submit", "status", "wait", "list", "cancel", "retry")
STATES = ("queued", "running", "succeeded", "failed", "cancelled", "expired")
LISTED = 50  # jobs, unless told otherwise

EPILOG = """\
environment: STORMDRAIN_URL  where the stack listens (http://127.0.0.1:8080)
             STORMDRAIN_KEY  id.secret, where it wants keys; never on the command line, which others can read

exit codes:  0 done
             1 a job that was waited for did not succeed
             2 the command line is wrong, nothing was sent
             3 something was refused, and was not done
             4 no answer came that settles it: it may have been done all the same
             5 jobs had not ended in time; they go on
             130 Ctrl-C; what was accepted goes on
"""

SUBMIT = """\
Submit a job; print its receipt once it is on disk. Arguments are name=value; a value that is JSON is taken as JSON,
any other as text:

  stormdrain submit primes limit=100000 --wait
  stormdrain submit sleep seconds=0.1 --count 1000 --wait
  generate | stormdrain submit -      a JSON object a line: {"job": "primes", "args": {"limit": 10}}
"""

Commands = _SubParsersAction  # argparse has no public name for it


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ArgumentTypeError(f"{text!r} is no number of seconds")
    return value


def count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise ArgumentTypeError(f"{text!r} is not 1 or more")
    return int(text)


def add_to(commands: Commands[ArgumentParser]) -> None:
    submit(command(commands, "submit", "submit a job, or many", SUBMIT))
    ids(command(commands, "status", "show jobs"))
    wait(command(commands, "wait", "wait until jobs have ended, and print each as it does"))
    listed(command(commands, "list", "list jobs, the newest first"))
    ids(command(commands, "cancel", "cancel jobs; those that run are killed"))
    retry(command(commands, "retry", "queue failed, cancelled or expired jobs again"))


def command(commands: Commands[ArgumentParser], name: str, told: str, description: str = "") -> ArgumentParser:
    parser: ArgumentParser = commands.add_parser(
        name,
        help=told,
        description=description or told[0].upper() + told[1:] + ".",
        epilog=EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--url", help="where the stack listens")
    parser.add_argument("--json", action="store_true", help="print JSON lines, as the stack answers")
    parser.add_argument(
        "--retry-for",
        type=seconds,
        default=10.0,
        metavar="SECONDS",
        help="how long a request without a usable answer is repeated (10)",
    )
    return parser


def ids(parser: ArgumentParser, needed: str = "+") -> None:
    parser.add_argument("ids", metavar="ID", nargs=needed, help="a job's id; - reads lines that begin with one")


def submit(parser: ArgumentParser) -> None:
    parser.add_argument("job", metavar="JOB", help="the registered function; - reads jobs from the standard input")
    parser.add_argument("words", metavar="name=value", nargs="*", help="its arguments")
    parser.add_argument("--args", metavar="JSON", help="its arguments as one JSON object")
    parser.add_argument("--count", type=count, metavar="N", help="submit it so many times")
    parser.add_argument("--wait", action="store_true", help="wait for the end, and print each job as it ends")
    parser.add_argument("--wait-timeout", type=seconds, metavar="SECONDS", help="wait, but no longer than this")
    group = parser.add_argument_group("of the job")
    group.add_argument("--priority", type=int, metavar="N", help="-100 to 100, higher first")
    group.add_argument("--delay", type=seconds, metavar="SECONDS", help="do not start it before")
    group.add_argument("--run-at", metavar="TIME", help="the same, as a moment: 2026-12-24T18:00:00+01:00")
    group.add_argument("--timeout", type=seconds, metavar="SECONDS", help="what one attempt may take")
    group.add_argument("--attempts", type=count, metavar="N", help="how many in all")
    group.add_argument("--expires-in", type=seconds, metavar="SECONDS", help="not started by then, it never is")
    group.add_argument("--deadline", metavar="TIME", help="the same, as a moment")
    group.add_argument("--callback", metavar="URL", help="told of its end, where the operator allows it")
    group.add_argument("--idempotency-key", metavar="KEY", help="with the same one again, it is no second job")


def wait(parser: ArgumentParser) -> None:
    ids(parser)
    parser.add_argument("--timeout", type=seconds, metavar="SECONDS", help="wait no longer than this")


def listed(parser: ArgumentParser) -> None:
    parser.add_argument("--state", choices=STATES, help="only those")
    parser.add_argument("--job", metavar="NAME", help="only those of this function")
    parser.add_argument("--limit", type=count, default=LISTED, metavar="N", help=f"how many ({LISTED})")
    parser.add_argument("--all", action="store_true", help="without a limit")


def retry(parser: ArgumentParser) -> None:
    ids(parser, "*")
    parser.add_argument("--state", choices=("failed", "cancelled", "expired"), help="all jobs of this state")
    parser.add_argument("--job", metavar="NAME", help="with --state: only those of this function")


def complete(given: Namespace, rest: list[str]) -> str:
    """What argparse leaves over or cannot see; the sentence that is wrong with it, or "". It takes no positional behind
    an option: `submit sleep --wait seconds=1`."""
    if given.command == "submit":
        given.words += [word for word in rest if not word.startswith("-")]
        rest = [word for word in rest if word.startswith("-")]
    if rest:
        return f"unrecognized arguments: {' '.join(rest)}"
    check = {"submit": wrong_submit, "retry": wrong_retry}.get(given.command)
    return check(given) if check else ""


def wrong_submit(given: Namespace) -> str:
    if wrong := [word for word in given.words if word.find("=") < 1]:
        return f"arguments are name=value, not {wrong[0]!r}"
    if given.words and given.args:
        return "arguments are given as name=value or with --args, not both"
    if given.job == "-" and (given.words or given.args or given.count or given.idempotency_key):
        return "with - the jobs come from the standard input, with their arguments"
    if given.idempotency_key and given.count:
        return "one --idempotency-key is one job, however large --count is"
    return ""


def wrong_retry(given: Namespace) -> str:
    if bool(given.ids) == bool(given.state):
        return "name jobs, or choose them with --state"
    return "--job goes with --state" if given.job and not given.state else ""
