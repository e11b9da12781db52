"""The contract of a backlog, in words. tests/contract/ is the same contract as tests, run by every engine.

Verbs block, and are narrow on purpose: async lives in one adapter, `aio`. The verbs that write come from one thread
at a time, but not always the same: one may begin a batch, and another fill it. Those that read (get, page, versions,
removed, ended, counts, oldest, running, workers, samples, tally, log_bytes) come from one other.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, Protocol

from service.errors import StoreError
from service.job import Callback, Claim, Job, Listed, Receipt, Record, Running, Settlement, State

KEY_KEPT = 86400.0  # seconds after which an idempotency key may be used anew
# Seconds that one step of priority is worth: a job goes before those of a priority one lower that came up to so much
# earlier, and no flood of higher ones holds it back for longer than 200 times this.
AGEING = 60.0
COUNTED = 200  # due jobs that are counted for a position; where there are more, it is the length of the backlog
BITE = (
    200  # jobs removed, expired or queued again in one commit; a few milliseconds, so that intake never waits for more
)
PROMOTED = 2000  # jobs whose time has come that one sweep lets be claimed: as short as a bite
SCAN = 10_000  # jobs looked at for one page of a list


NO_PACKS: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True)
class Bounds:
    """How much is taken in, and how long what has ended is kept. The defaults bound nothing."""

    backlog_max: int = sys.maxsize  # queued jobs
    disk_reserve: int = 0  # bytes that new jobs leave free on the disk
    keep: float = math.inf  # seconds after its end for which a job is kept
    keep_max: int = sys.maxsize  # ended jobs


UNBOUNDED = Bounds()


class Page(NamedTuple):
    """A part of a list. It may hold fewer jobs than were asked for, even none: the places looked at are bounded."""

    jobs: list[Listed]
    next: int | None  # the place to go on from; None at the end


class Backlog(Protocol):
    durability: str
    """What a put survives: "fsync" (a power cut), "memory" (nothing)."""

    def batch(self) -> AbstractContextManager[None]:
        """The verbs inside become durable together, when the block ends; if it raises, none of them happened.

        Raises StoreBusy on entry when the store is locked by somebody else: nothing happened, try again."""

    def put(self, jobs: Sequence[Job]) -> list[Receipt | StoreError]:
        """Queue jobs, durable when the batch ends. The same id, or within KEY_KEPT the same idempotency key, is not a
        second job, and is told so also where there is no room. A StoreError for each job that was not stored:
        BacklogFull, or StoreFull where the disk's reserve is reached."""

    def refusal(self) -> StoreError | None:
        """Why a new job would not be stored now: BacklogFull, StoreFull, or None where it would."""

    def claim(self, slots: int, worker: str, packs: Mapping[str, int] = NO_PACKS) -> list[Claim]:
        """queued → running for as many jobs that are due as so many slots take, one each, or of a function in `packs`
        so many together: highest priority first, then oldest, as AGEING mixes the two; each with a new fencing token.
        Two workers never get the same job."""

    def extend(self, worker: str, lease: float) -> bool:
        """This worker lives, and keeps what it holds for another `lease` seconds.
        False when it had no lease any more: what it held has been given to others."""

    def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        """running → the settlement's state. False where the token is stale: somebody else holds the job now."""

    def sweep(self, sweeper: str) -> int:
        """What dead or hanging workers hold (not `sweeper`, who asks) is queued again, attempt not counted; retries
        whose time has come can be claimed. Returns how many jobs became claimable; from PROMOTED up there may be more.
        Cheap when there are none.

        A sweeper whose own lease has ended finds nobody hanging: the store may have been held, a disk may have
        stood still, and the others could renew their leases no more than it could."""

    def expire(self) -> bool:
        """queued → expired for some of the jobs that should have started by now. True when there may be more."""

    def cancel(self, id: str) -> State | None:
        """The state the job was found in, None when it is not here. Queued, it is cancelled now; running, its worker
        finds it in `cancelling`, and it is not queued again; ended, nothing happens."""

    def cancelling(self, worker: str) -> list[tuple[str, int]]:
        """(id, fencing token) of what this worker runs and somebody wants ended."""

    def requeue(self, id: str) -> State | StoreError | None:
        """The state the job was found in, None when it is not here. Failed, cancelled or expired, it is queued again,
        with all its attempts; a StoreError where there is no room."""

    def requeue_many(self, state: State, name: str | None, before: float) -> int | StoreError:
        """`requeue` for some of the jobs in this state that ended before a time (seconds since the epoch). How many:
        0 when there are no more; a StoreError where there is no room."""

    def claim_callbacks(self, limit: int, worker: str) -> list[Callback]:
        """Up to `limit` ends that are due to be told, for this worker to tell; recorded with the end itself."""

    def settle_callback(self, callback: Callback, worker: str, again: float | None, error: str | None) -> None:
        """What this worker came to: told (no error), to be tried `again` in so many seconds, or given up (None)."""

    def prune(self) -> bool:
        """Remove some of the jobs that ended too long ago, or are too many. True when there may be more."""

    def publish(self, samples: Mapping[str, int]) -> None:
        """Add to the sums of all workers, by the name of each."""

    def leave(self, worker: str) -> None:
        """This worker ends. What it still holds is queued again."""

    def get(self, id: str) -> Record | None:
        """The job as it stands."""

    def page(self, state: State | None, name: str | None, before: int | None, limit: int) -> Page:
        """Newest first: up to `limit` jobs of this state and name that were put before place `before`."""

    def versions(self, ids: Sequence[str]) -> dict[str, int]:
        """The version of each of these jobs that is here."""

    def removed(self, id: str) -> bool:
        """Whether a job that is not here was here once. True also for an id of that time that never was."""

    def ended(self) -> int:
        """How often a job has ended since the backlog was made, also those that were removed, or are queued again."""

    def counts(self) -> dict[State, int]:
        """Jobs by state. Never a scan: the cost does not grow with the backlog."""

    def oldest(self) -> float | None:
        """Since when the claimable job that waits longest can be claimed, in seconds since the epoch; None when there
        is none."""

    def running(self) -> list[Running]:
        """What every slot of every worker runs."""

    def workers(self) -> list[str]:
        """The workers that hold a lease."""

    def samples(self) -> dict[str, int]:
        """The sums of all that was ever published, whoever did, and whether they still live."""

    def tally(self) -> dict[tuple[str, State], int]:
        """How many jobs of each name were put (queued), and how often one came to each final state, since the backlog
        was made, also those that were removed."""

    def log_bytes(self) -> int:
        """The size of the write-ahead log: it grows for as long as somebody reads without an end."""

    def wake_fd(self) -> int | None:
        """A file descriptor that gets readable when another process calls wake_others, if there can be one."""

    def wake_others(self) -> None:
        """Tell the other processes on this backlog that there is something to claim."""

    def close(self) -> None:
        """Let go of everything held open."""
