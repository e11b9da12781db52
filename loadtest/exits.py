"""The exit codes by name, and the error that ends a run with a sentence."""

from enum import IntEnum


class Exit(IntEnum):
    """What the caller (make, Compose, CI) can tell from the exit code alone."""

    OK = 0  # every request succeeded, every accepted job has an end
    LOST = 1  # at least one accepted job is gone: the promise is broken
    UNUSABLE = 2  # a wrong setting, or no target: nothing was measured
    REFUSED = 3  # requests failed, but nothing that was accepted is lost
    UNFINISHED = 4  # jobs are still queued or running, and none ended for FOLLOW_TIMEOUT
    STOPPED = 130  # Ctrl-C (128 + SIGINT, as shells say it), also used for SIGTERM


class Unusable(Exception):
    """Nothing can be measured; the message says why and what to do."""
