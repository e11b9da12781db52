"""Somebody reads without end: the write-ahead log grows meanwhile, since no page that they see may be replaced."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import apsw

from tests.faults.faulty import file_of, stored
from tests.support import Server, server, wait_until

LOAD = 200  # jobs
SLACK = 2 << 20  # bytes; a checkpoint comes at 1,000 pages of 4 KiB, and a batch may be under way


def load(it: Server) -> None:
    done = it.stats()["states"]["succeeded"]
    with ThreadPoolExecutor(8) as clients:
        for _ in clients.map(lambda n: it.submit("noop", job_id=f"{n}" + "x" * 5000), range(LOAD)):
            pass
    wait_until(lambda: it.stats()["states"]["succeeded"] == done + LOAD, "every job has run", 60)


def test_a_reader_that_stays_open_stops_nobody_and_the_log_is_used_again_after_it(tmp_path: Path) -> None:
    log = Path(f"{file_of(tmp_path)}-wal")
    sizes = []
    with server(tmp_path, SLOTS="4") as it:
        it.wait_for(it.submit("noop"), "succeeded")
        reader = apsw.Connection(str(file_of(tmp_path)), flags=apsw.SQLITE_OPEN_READONLY)
        reader.execute("BEGIN; SELECT count(*) FROM jobs").fetchall()
        for _ in range(3):
            load(it)
            sizes.append(log.stat().st_size)
        assert reader.execute("SELECT count(*) FROM jobs").get == 1  # it sees what it saw
        reader.execute("COMMIT")
        reader.close()
        for _ in range(3):
            load(it)
            sizes.append(log.stat().st_size)
        assert it.stop() == 0
    assert sizes[0] < sizes[1] < sizes[2], sizes
    assert sizes[5] <= sizes[2] + SLACK, sizes
    assert not log.exists() or log.stat().st_size == 0
    assert len(stored(file_of(tmp_path))) == 1 + 6 * LOAD
