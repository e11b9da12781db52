"""What can go wrong, as classes: one root, each with its HTTP status; the docstring is the title.

StormdrainError
├── ConfigError            a setting is wrong: the process does not start
│   └── JobsError          the jobs module cannot be imported
├── Refused                the client's doing; nothing was stored
│   ├── Malformed          400
│   ├── NoKey              401, with the scheme that is asked for
│   ├── MissingScope       403, with the scope that is missing
│   ├── CrossSite          403
│   ├── NotFound           404
│   │   ├── UnknownJob     404, with the known names
│   │   └── Removed        410
│   ├── WrongMethod        405, with the allowed ones
│   ├── WrongState         409
│   ├── TooLarge           413
│   ├── WrongContentType   415
│   ├── BadArguments       422
│   ├── KeyReused          422
│   └── Crowded            503: so many wait already
├── NotReady               503: to who asks whether this producer is
│   ├── Draining
│   └── Stalled            jobs wait, and do not move
└── StoreError             the backlog could not do it
    ├── StoreBusy          503: not stored; try again
    ├── BacklogFull        503: not stored; try again later
    ├── StoreFull          507: not stored, the disk's reserve is reached
    ├── ShuttingDown       503: not stored, by this producer; another one takes it
    └── StoreBroken        504: the state of the last commit is unknown; this process ends
        └── StoreCorrupt   504: and the file is damaged; the server ends
"""

from __future__ import annotations

from typing import Any

DETAIL_MAX = 500  # characters that a client is told; a name of its own that is quoted may be as long as a body


class StormdrainError(Exception):
    """Something went wrong"""

    status = 500
    slug = "internal"

    def __init__(self, detail: str = "", **members: Any) -> None:
        super().__init__(detail or self.title)
        self.detail = detail if len(detail) <= DETAIL_MAX else f"{detail[:DETAIL_MAX]} …"
        self.members = members

    @property
    def title(self) -> str:
        return (type(self).__doc__ or "").strip()

    def problem(self) -> dict[str, Any]:
        """As RFC 9457 has it."""
        return {"type": f"/problems/{self.slug}", "title": self.title, "status": self.status, "detail": self.detail}


class ConfigError(StormdrainError):
    """The configuration is wrong"""

    traceback = False


class JobsError(ConfigError):
    """The jobs module cannot be imported"""

    traceback = True  # of its cause, which is in the user's own code


class Refused(StormdrainError):
    """The request was refused"""

    status = 400
    slug = "refused"


class Malformed(Refused):
    """The request is not well formed"""

    slug = "malformed"


class NoKey(Refused):
    """A valid API key is needed"""

    status = 401
    slug = "no-key"


class MissingScope(Refused):
    """This API key may not do this"""

    status = 403
    slug = "scope"


class CrossSite(Refused):
    """Another site's page may not ask for this"""

    status = 403
    slug = "cross-site"


class NotFound(Refused):
    """There is nothing here"""

    status = 404
    slug = "not-found"


class UnknownJob(NotFound):
    """No function is registered under this name"""

    slug = "unknown-job"


class Removed(NotFound):
    """This job has ended, and is not kept any more"""

    status = 410
    slug = "removed"


class WrongMethod(Refused):
    """This method is not allowed here"""

    status = 405
    slug = "wrong-method"


class WrongState(Refused):
    """This job is in no state for that"""

    status = 409
    slug = "wrong-state"


class TooLarge(Refused):
    """The body is too large"""

    status = 413
    slug = "too-large"


class WrongContentType(Refused):
    """This content type is not accepted"""

    status = 415
    slug = "wrong-content-type"


class BadArguments(Refused):
    """The arguments do not fit"""

    status = 422
    slug = "bad-arguments"


class KeyReused(Refused):
    """This idempotency key was used for another request"""

    status = 422
    slug = "key-reused"


class Crowded(Refused):
    """Too many wait here already"""

    status = 503
    slug = "crowded"


class NotReady(StormdrainError):
    """This producer is not ready"""

    status = 503
    slug = "not-ready"


class Draining(NotReady):
    """This producer is shutting down"""

    slug = "draining"


class Stalled(NotReady):
    """Jobs do not move"""

    slug = "stalled"


class StoreError(StormdrainError):
    """The backlog cannot do this now"""

    status = 503
    slug = "store"


class StoreBusy(StoreError):
    """The backlog is busy: nothing was stored, try again"""

    slug = "store-busy"


class BacklogFull(StoreError):
    """The backlog is full: nothing was stored, try again later"""

    slug = "backlog-full"


class StoreFull(StoreError):
    """The disk is full: nothing was stored"""

    status = 507
    slug = "disk-full"


class ShuttingDown(StoreError):
    """This producer is shutting down: nothing was stored, try again"""

    slug = "shutting-down"


class StoreBroken(StoreError):
    """The backlog failed: whether this was stored is unknown"""

    status = 504  # to a client, any 503 means: not accepted
    slug = "store-broken"


class StoreCorrupt(StoreBroken):
    """The backlog's file is damaged: whether this was stored is unknown"""

    slug = "store-corrupt"
