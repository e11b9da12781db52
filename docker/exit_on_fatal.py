"""supervisord's event listener: a program that failed for good ends the container, with a non-zero exit.

Protocol: http://supervisord.org/events.html#event-listener-notification-protocol"""

import os
import signal
import sys
from pathlib import Path

FATAL = Path("/tmp/fatal")  # entrypoint.py looks for it: supervisord itself exits 0 always


def main() -> None:
    while True:
        print("READY", flush=True)
        header = dict(word.split(":", 1) for word in sys.stdin.readline().split())
        event = sys.stdin.read(int(header["len"]))
        print(f"a program failed for good, the container ends: {event}", file=sys.stderr, flush=True)
        FATAL.touch()
        os.kill(os.getppid(), signal.SIGTERM)
        print("RESULT 2\nOK", end="", flush=True)


if __name__ == "__main__":
    main()
