"""`python -m service stage NAME`: one teaching server on loopback, until Ctrl-C or SIGTERM."""

import errno
import importlib
import logging
import os
import signal
import sys
import traceback
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, ArgumentTypeError
from contextlib import suppress

from service import linux
from service.stages import EXPERIMENTS, STAGES
from service.stages.shared import Job, Options


def read(arguments: list[str]) -> tuple[str, Options]:
    parser = ArgumentParser(
        prog="python -m service stage",
        description=f"One server of the ladder ({', '.join(STAGES)}), or an experiment ({', '.join(EXPERIMENTS)}).",
        formatter_class=ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("name", metavar="NAME", choices=(*STAGES, *EXPERIMENTS), help="the stage")
    parser.add_argument("--port", type=port, default=8001, help="where it listens, on 127.0.0.1")
    parser.add_argument("--job", choices=("sleep", "primes"), default="sleep", help="sleep waits, primes computes")
    parser.add_argument("--seconds", type=positive, default=1.0, help="how long sleep waits")
    parser.add_argument("--limit", type=positive, default=300_000, help="how far primes counts")
    parser.add_argument("--pool", choices=("thread", "process"), default="thread", help="of producer_consumer")
    given = parser.parse_args(arguments)
    amount = given.seconds if given.job == "sleep" else given.limit
    return given.name, Options(given.port, Job(given.job, amount), given.pool)


def port(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 0 < int(text) < 65536:
        raise ArgumentTypeError("use a number from 1 to 65535")
    return int(text)


def positive(text: str) -> float:
    with suppress(ValueError):
        if 0 < float(text) < 1e9:
            return float(text)
    raise ArgumentTypeError("use a number above 0")


def stop(*_: object) -> None:
    # Ours also for Ctrl-C: asyncio would only cancel, which a blocking handler notices when it is done. And no
    # exception: Python swallows one that is raised while a pool forks.
    end_children()
    os._exit(0)


def end_children() -> None:
    for pid in linux.descendants(os.getpid()):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def run(name: str, options: Options) -> int:
    """Whatever the stage has started ends with it. Returns the exit code."""
    linux.adopt_orphans()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, stop)
    try:
        importlib.import_module(f"service.stages.{name}").main(options)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.EADDRINUSE, errno.EACCES):
            print(f"stage {name}: port {options.port}: {error.strerror}. Choose another with --port.", file=sys.stderr)
            return 1
        traceback.print_exc()
        return 1
    finally:
        end_children()
    return 0


if __name__ == "__main__":
    stage, options = read(sys.argv[1:])
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    print(f"stage {stage}: job {options.job.name} {options.job.amount:g}", file=sys.stderr)
    if stage in STAGES:
        print(f"""try: curl -X GET 127.0.0.1:{options.port}/ -d '{{"job_id": 7}}'""", file=sys.stderr)
    code = run(stage, options)
    # Not sys.exit: it would first wait for all that is queued in a pool of threads.
    os._exit(code)
