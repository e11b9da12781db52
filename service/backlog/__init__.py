"""Where jobs wait. `base` is the contract; one file per engine; `aio` is the event loop's way to any of them."""

from service.backlog.base import UNBOUNDED, Backlog, Bounds


def open_backlog(url: str, bounds: Bounds = UNBOUNDED) -> Backlog:
    """Open `sqlite:path` or `memory:`. Call after the fork. Raises ConfigError."""
    scheme, _, path = url.partition(":")
    if scheme == "memory":
        from service.backlog.memory import MemoryBacklog

        return MemoryBacklog(bounds=bounds)
    from service.backlog.sqlite import SqliteBacklog

    return SqliteBacklog(path, bounds=bounds)
