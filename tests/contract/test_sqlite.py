"""What only the SQLite engine promises: the flush, the file, dead processes, locks of others."""

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest
from msgspec.structs import replace

from service import linux
from service.backlog import sql, store
from service.backlog.base import PROMOTED, Bounds
from service.backlog.sqlite import SqliteBacklog
from service.backlog.store import OLDEST_SQLITE, SCHEMA_VERSION
from service.errors import ConfigError, StoreBusy
from service.job import Claim, Job, Receipt, Settlement, State, new_id
from tests.contract.test_backlog import Clocks, news

ROOT = Path(__file__).parents[2]
LEASE = 1_000.0  # seconds; never over in a test that does not move the clock

# Takes the lease, claims everything, says so, and waits to be killed.
HOLDER = """
import sys
from service.backlog.sqlite import SqliteBacklog
backlog = SqliteBacklog(sys.argv[1])
backlog.extend("holder", 1000.0)
print(len(backlog.claim(100, "holder")), flush=True)
sys.stdin.read()
"""

# A person's shell, or a backup tool: holds the write lock of SQLite, and not our flock.
LOCKER = """
import sys, apsw
db = apsw.Connection(sys.argv[1])
db.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""


FIRST_SCHEMA = """
CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    args TEXT NOT NULL,
    state TEXT NOT NULL,
    priority INTEGER NOT NULL,
    timeout REAL NOT NULL,
    attempts INTEGER NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0,
    crashes INTEGER NOT NULL DEFAULT 0,
    token INTEGER NOT NULL DEFAULT 0,
    worker TEXT,
    due_boot TEXT,
    due REAL,
    created_at REAL NOT NULL,
    run_at REAL NOT NULL,
    started_at REAL,
    finished_at REAL,
    result TEXT,
    error TEXT,
    history TEXT NOT NULL DEFAULT '[]'
) STRICT;
CREATE INDEX jobs_ready ON jobs (priority DESC, seq) WHERE state = 'queued' AND due_boot IS NULL;
CREATE INDEX jobs_waiting ON jobs (due_boot, due) WHERE due_boot IS NOT NULL;
CREATE INDEX jobs_running ON jobs (worker) WHERE state = 'running';
CREATE TABLE workers (worker TEXT PRIMARY KEY, boot TEXT NOT NULL, lease_until REAL NOT NULL) STRICT;
CREATE TABLE counts (state TEXT PRIMARY KEY, n INTEGER NOT NULL) STRICT;
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data" / "backlog.db"


@pytest.fixture
def open_one(file: Path) -> Iterator[Callable[[], SqliteBacklog]]:
    opened: list[SqliteBacklog] = []

    def open_() -> SqliteBacklog:
        opened.append(SqliteBacklog(str(file)))
        return opened[-1]

    yield open_
    for backlog in opened:
        backlog.close()


@contextmanager
def script(code: str, file: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `code` in a process of its own; yields it with the first line it prints."""
    command = [sys.executable, "-c", code, str(file)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def jobs(count: int) -> list[Job]:
    return [Job(new_id(), "sleep", b"{}", 60.0, 3) for _ in range(count)]


def succeeded(claim: Claim) -> Settlement:
    return Settlement(claim.job.id, claim.token, State.SUCCEEDED, claim.attempt, 0, b"{}", result=b"1")


# the file


def test_every_connection_writes_ahead_and_flushes_each_commit(open_one: Callable[[], SqliteBacklog]) -> None:
    backlog = open_one()
    for connection in (backlog._db, backlog._reader):
        assert connection.pragma("journal_mode") == "wal"
        assert connection.pragma("synchronous") == 2  # FULL
    assert backlog.durability == "fsync"


def test_an_sqlite_that_can_corrupt_the_file_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.51.2")
    with pytest.raises(ConfigError, match=r"SQLite 3\.51\.2 can corrupt .* use 3\.51\.3 or newer"):
        SqliteBacklog(str(file))
    assert not file.exists()


def test_the_sqlite_we_ship_is_new_enough() -> None:
    assert tuple(map(int, apsw.sqlite_lib_version().split("."))) >= OLDEST_SQLITE


def test_a_schema_of_another_release_is_refused_with_a_sentence(
    file: Path, open_one: Callable[[], SqliteBacklog]
) -> None:
    backlog = open_one()
    backlog._db.pragma("user_version", SCHEMA_VERSION + 1)
    with pytest.raises(ConfigError, match=f"schema {SCHEMA_VERSION + 1}, this release knows up to {SCHEMA_VERSION}"):
        SqliteBacklog(str(file))


def back_to_4(backlog: SqliteBacklog) -> None:
    backlog._db.execute("""
        DROP TRIGGER callback_begins; DROP TRIGGER callback_ends; DROP TRIGGER callback_is_given_up;
        DROP INDEX jobs_ended; ALTER TABLE jobs DROP COLUMN telling;
        CREATE INDEX jobs_ended ON jobs (finished_at) WHERE finished_at IS NOT NULL""")
    backlog._db.pragma("user_version", 4)


def test_what_schema_4_has_still_to_tell_is_kept_until_it_is_told(
    file: Path, open_one: Callable[[], SqliteBacklog]
) -> None:
    before = open_one()
    back_to_4(before)
    plain, *others = jobs(3)
    told, untold = (replace(job, callback="http://a.example/") for job in others)
    before.put([told, untold, plain])
    before.settle([succeeded(claim) for claim in before.claim(3, "w1")])
    (callback,) = before.claim_callbacks(1, "w1")
    before.settle_callback(callback, "w1", None, None)
    backlog = SqliteBacklog(str(file), bounds=Bounds(keep_max=0))
    backlog.prune()
    assert [backlog.get(job.id) is None for job in (told, untold, plain)] == [True, False, True]
    (callback,) = backlog.claim_callbacks(9, "w1")
    backlog.settle_callback(callback, "w1", None, None)
    backlog.prune()
    assert backlog.get(untold.id) is None
    backlog.close()


def test_a_sweep_takes_a_bounded_part_of_what_is_due_at_once(file: Path) -> None:
    clocks = Clocks()
    backlog = SqliteBacklog(str(file), clocks.read_boot, clocks.read_wall)
    backlog.put([replace(job, delay=5.0) for job in jobs(2 * PROMOTED + 1)])
    clocks.pass_time(6)
    assert [backlog.sweep("w1") for _ in range(4)] == [PROMOTED, PROMOTED, 1, 0]
    backlog.close()


def test_what_schema_3_did_not_always_have_is_made_and_what_it_had_is_not_counted_twice(
    file: Path, open_one: Callable[[], SqliteBacklog]
) -> None:
    before = open_one()
    back_to_4(before)
    before._db.execute("DROP INDEX jobs_ended_badly_named")
    before._db.execute("""CREATE TRIGGER jobs_put AFTER INSERT ON jobs BEGIN
        INSERT INTO tally VALUES (NEW.name, 'queued', 1) ON CONFLICT DO UPDATE SET n = n + 1; END""")
    before._db.pragma("user_version", 3)
    backlog = open_one()
    assert backlog._db.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'jobs_ended_badly_named'").get == 1
    backlog.put(jobs(3))
    assert sum(backlog.tally().values()) == 3


def test_a_backlog_of_the_first_release_is_brought_to_this_one(
    file: Path, open_one: Callable[[], SqliteBacklog]
) -> None:
    file.parent.mkdir()
    db = apsw.Connection(str(file))
    db.pragma("journal_mode", "wal")
    db.execute(FIRST_SCHEMA)
    db.execute("""INSERT INTO jobs (id, name, args, state, priority, timeout, attempts, created_at, run_at)
                  VALUES ('old', 'sleep', '{}', 'queued', 0, 60, 3, 1, 1)""")
    db.execute("INSERT INTO counts VALUES ('queued', 1)")
    db.pragma("user_version", 1)
    db.close()
    backlog = open_one()
    (claim,) = backlog.claim(9, "w1")
    assert (claim.job.id, claim.losses) == ("old", 0)
    assert backlog.settle([succeeded(claim)]) == [True]
    backlog.prune()
    assert backlog.ended() == 1
    keyed = replace(jobs(1)[0], key="k")
    assert backlog.put([keyed, keyed]) == [Receipt(keyed.id, position=1), Receipt(keyed.id, new=False)]
    fresh = SqliteBacklog(str(file.parent / "fresh.db"))
    schemas = [
        sorted(
            sql.split("--")[0]
            for (sql,) in it._db.execute("SELECT sql FROM sqlite_schema WHERE type = 'index' AND sql <> ''")
        )
        for it in (backlog, fresh)
    ]
    fresh.close()
    assert schemas[0] == schemas[1]


def test_a_file_that_is_no_database_is_refused_with_a_sentence(file: Path) -> None:
    file.parent.mkdir()
    file.write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(ConfigError, match="cannot be opened"):
        SqliteBacklog(str(file))


def test_a_folder_that_cannot_be_made_is_refused_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be opened"):
        SqliteBacklog(str(tmp_path / "file" / "backlog.db"))


def test_jobs_outcomes_counts_and_tokens_survive_a_reopen(file: Path, open_one: Callable[[], SqliteBacklog]) -> None:
    first = SqliteBacklog(str(file))
    first.put(ended_and_queued := jobs(2))
    first.settle([succeeded(first.claim(1, "w1")[0])])
    before = [first.get(job.id) for job in ended_and_queued], first.counts()
    first.close()
    second = open_one()
    assert ([second.get(job.id) for job in ended_and_queued], second.counts()) == before
    assert [claim.job for claim in second.claim(5, "w2")] == ended_and_queued[1:]


def test_after_a_reboot_leases_are_over_and_retries_are_due(
    open_one: Callable[[], SqliteBacklog], monkeypatch: pytest.MonkeyPatch
) -> None:
    backlog = open_one()
    backlog.put(jobs(2))
    backlog.extend("w1", LEASE)
    retried, _held = backlog.claim(2, "w1")
    backlog.settle([Settlement(retried.job.id, retried.token, State.QUEUED, 1, 0, b"{}", delay=1e6)])
    assert backlog.sweep("sweeper") == 0
    monkeypatch.setattr(linux, "boot_id", lambda: "another boot")
    rebooted = open_one()
    rebooted.sweep("sweeper")
    assert len(rebooted.claim(2, "w2")) == 2


# several processes


def test_two_connections_never_claim_the_same_job(open_one: Callable[[], SqliteBacklog]) -> None:
    backlogs = [open_one() for _ in range(3)]
    backlogs[0].put(jobs(120))
    claims: list[list[Claim]] = [[] for _ in backlogs]

    def claim_all(number: int) -> None:
        while got := backlogs[number].claim(3, f"w{number}"):
            claims[number] += got

    threads = [threading.Thread(target=claim_all, args=(number,)) for number in range(len(backlogs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids = [claim.job.id for own in claims for claim in own]
    assert len(ids) == len(set(ids)) == 120


def test_what_a_killed_process_held_is_queued_again_at_once(file: Path, open_one: Callable[[], SqliteBacklog]) -> None:
    backlog = open_one()
    backlog.put(jobs(3))
    with script(HOLDER, file) as (holder, said):
        assert said == "3"
        assert backlog.sweep("sweeper") == 0  # it lives
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert backlog.sweep("sweeper") == 3
    assert backlog.workers() == []
    assert [claim.attempt for claim in backlog.claim(3, "w1")] == [1, 1, 1]
    assert list((file.parent / "workers").iterdir()) == []


def test_a_stopped_process_is_not_taken_for_dead(file: Path, open_one: Callable[[], SqliteBacklog]) -> None:
    backlog = open_one()
    backlog.put(jobs(1))
    with script(HOLDER, file) as (holder, _said):
        holder.send_signal(signal.SIGSTOP)
        assert backlog.sweep("sweeper") == 0
        assert backlog.workers() == ["holder"]


def test_two_sweepers_find_a_dead_process_once(file: Path, open_one: Callable[[], SqliteBacklog]) -> None:
    one, two = open_one(), open_one()
    one.put(jobs(3))
    with script(HOLDER, file) as (holder, _said):
        holder.kill()
    assert [one.sweep("sweeper"), two.sweep("sweeper")] == [3, 0]


def test_a_sweep_that_was_rolled_back_finds_the_dead_again(file: Path, open_one: Callable[[], SqliteBacklog]) -> None:
    backlog = open_one()
    backlog.put(jobs(3))
    with script(HOLDER, file) as (holder, _said):
        holder.kill()
    with contextlib.suppress(KeyError), backlog.batch():
        assert backlog.sweep("sweeper") == 3
        raise KeyError
    assert backlog.sweep("sweeper") == 3


def test_what_could_not_be_given_back_at_the_end_is_found_by_the_others(
    file: Path, open_one: Callable[[], SqliteBacklog]
) -> None:
    backlog = open_one()
    backlog.put(jobs(1))
    leaving = SqliteBacklog(str(file))
    leaving.extend("leaving", LEASE)
    assert len(leaving.claim(1, "leaving")) == 1
    leaving._db.set_busy_timeout(1)
    with script(LOCKER, file), pytest.raises(StoreBusy):
        leaving.leave("leaving")
    leaving.close()  # as AsyncBacklog does
    assert backlog.sweep("sweeper") == 1


def test_others_are_woken_through_their_file_descriptor(open_one: Callable[[], SqliteBacklog]) -> None:
    sleeper, idle, waker = open_one(), open_one(), open_one()
    assert sleeper.wake_fd() is None  # nobody can be woken before it has arrived
    sleeper.extend("sleeper", LEASE)
    idle.extend("idle", LEASE)
    waker.extend("waker", LEASE)
    waker.wake_others()
    woken = [fd for fd in (sleeper.wake_fd(), idle.wake_fd()) if fd is not None]
    assert sorted(select.select(woken, [], [], 5.0)[0]) == sorted(woken)
    own = waker.wake_fd()
    assert own is not None
    assert select.select([own], [], [], 0.0)[0] == []


def test_waking_somebody_who_never_looks_does_not_block(open_one: Callable[[], SqliteBacklog]) -> None:
    sleeper, waker = open_one(), open_one()
    sleeper.extend("sleeper", LEASE)
    fd = sleeper.wake_fd()
    assert fd is not None
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(fd, bytes(4096))  # until the FIFO is full
    waker.wake_others()


# a lock of somebody else's


def test_a_foreign_lock_makes_writes_busy_and_lets_reads_through(
    file: Path, open_one: Callable[[], SqliteBacklog]
) -> None:
    backlog = open_one()
    backlog.put(before := jobs(1))
    backlog._db.set_busy_timeout(50)
    late = jobs(1)
    with script(LOCKER, file) as (_locker, said):
        assert said == "locked"
        with pytest.raises(StoreBusy):
            backlog.put(late)
        with pytest.raises(StoreBusy), backlog.batch():
            pytest.fail("the block of a busy batch is not entered")
        with pytest.raises(StoreBusy):
            backlog.sweep("sweeper")
        record = backlog.get(before[0].id)
        assert record is not None
        assert record.state == State.QUEUED
        assert backlog.counts()[State.QUEUED] == 1
    assert backlog.get(late[0].id) is None
    assert news(backlog.put(late)) == [True]


def test_a_foreign_lock_that_ends_soon_is_waited_for(
    file: Path, open_one: Callable[[], SqliteBacklog], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "BUSY_TIMEOUT", 20_000)  # the locker may need more than the usual second to end
    backlog = open_one()
    with script(LOCKER, file) as (locker, _said):
        assert locker.stdin is not None
        timer = threading.Timer(0.1, locker.stdin.close)
        timer.start()
        assert news(backlog.put(jobs(1))) == [True]
        timer.join()


# size


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (sql.FIRST, "jobs_ready"),
        (sql.settle(8), "sqlite_autoindex_jobs_1"),
        (sql.AHEAD, "jobs_ready"),
        (sql.OLDEST, "jobs_oldest"),
        (sql.PROMOTE, "jobs_waiting"),
        (sql.EXPIRE, "jobs_expiring"),
        (sql.CANCELLING, "jobs_cancelling"),
        (sql.CANCEL_RETURNED, "jobs_cancelling"),
        (sql.REQUEUE_MANY[False], "jobs_ended_badly"),
        (sql.REQUEUE_MANY[True], "jobs_ended_badly_named"),
        (sql.PRUNE, "jobs_ended"),
        (sql.DUE_CALLBACKS, "callbacks_due"),
        (sql.TELLING, "callbacks_due"),
        (sql.TELLING, "callbacks_held"),
        (sql.RUNNING, "jobs_running"),
        *(
            (query, "jobs_running" if state == "running" else "jobs_ended_badly_named" if named else "jobs_ended_badly")
            for (state, named), query in sql.LIST_INDEXED.items()
        ),
    ],
    ids=lambda value: value if value.startswith("jobs_") else "",
)
def test_what_is_asked_again_and_again_looks_only_at_what_it_wants(
    open_one: Callable[[], SqliteBacklog], query: str, index: str
) -> None:
    named = dict.fromkeys(re.findall(r"\W:([a-z]+)", query), 1)
    values = named or (1,) * query.count("?")
    plan = " ".join(str(row) for row in open_one()._db.execute(f"EXPLAIN QUERY PLAN {query}", values))
    assert re.search(rf"INDEX {index}\b", plan)
    assert "SCAN jobs'" not in plan
