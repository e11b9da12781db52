"""The power is cut at a random moment. Everything that was answered is there; what was not may be, and whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import apsw
import pytest

from service.backlog.sqlite import SqliteBacklog
from service.errors import StoreBroken
from service.job import Job, Settlement, State
from tests.faults.power import Disk, OneConnection, default_disk

LIVES = 40
CUTS = 8  # looks at the disk in one life, each as if the power had failed there
ROUNDS = 12  # puts in one life, each followed by claims and settlements
OPERATIONS = 400  # of the disk in one life, about


@dataclass(frozen=True)
class Cut:
    files: dict[str, bytes]
    put: list[str]  # what a client had been told
    settled: list[str]  # what a consumer had been told
    at: str


class Unflushed(OneConnection):
    """What must lose jobs, or this test could not."""

    def _connect(self, file: Path) -> apsw.Connection:
        db = super()._connect(file)
        db.pragma("synchronous", "normal")
        return db


def job(id: str, size: int) -> Job:
    return Job(id, "noop", b'{"x":"' + b"y" * size + b'"}', 60.0, 3)


def life(folder: Path, seed: int, engine: type[SqliteBacklog]) -> list[Cut]:
    """Open a new backlog, put, claim, settle; and what would be on the disk at some moments of it."""
    dice = Random(seed)
    put: list[str] = []
    settled: list[str] = []
    cuts: list[Cut] = []

    def maybe_cut(operation: str) -> None:
        if dice.random() < CUTS / OPERATIONS:
            cuts.append(Cut(disk.after_a_cut(dice), list(put), list(settled), f"{operation} in life {seed}"))

    folder.mkdir()
    disk = Disk("power", maybe_cut)
    with default_disk(disk, checkpoint=dice.choice([5, 20, 1000])):
        backlog = engine(str(folder / "backlog.db"))
        for round in range(ROUNDS):
            jobs = [job(f"{round}-{n}", dice.choice([1, 900, 6000])) for n in range(dice.choice([1, 1, 4]))]
            backlog.put(jobs)
            put += [job.id for job in jobs]
            for claim in backlog.claim(dice.randrange(3), "w"):
                assert backlog.settle(
                    [Settlement(claim.job.id, claim.token, State.SUCCEEDED, 1, 0, b"{}", result=b"1")]
                )
                settled.append(claim.job.id)
        backlog.close()
    disk.unregister()
    return cuts


def lost(folder: Path, cut: Cut) -> list[str]:
    """What had been answered, and is not there when the power is back."""
    folder.mkdir()
    for name, content in cut.files.items():
        (folder / name).write_bytes(content)
    backlog = SqliteBacklog(str(folder / "backlog.db"))
    try:
        assert backlog._db.pragma("integrity_check") == "ok", cut.at
        states = dict(backlog._db.execute("SELECT id, state FROM jobs"))
        assert backlog.counts() == {state: list(states.values()).count(state) for state in State}, cut.at
        return [id for id in cut.put if id not in states] + [id for id in cut.settled if states.get(id) != "succeeded"]
    finally:
        backlog.close()


def cuts(folder: Path, engine: type[SqliteBacklog]) -> Iterator[tuple[Cut, list[str]]]:
    for seed in range(LIVES):
        for number, cut in enumerate(life(folder / f"{seed}", seed, engine)):
            yield cut, lost(folder / f"{seed}-{number}", cut)


def test_a_power_cut_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    seen = list(cuts(tmp_path, OneConnection))
    assert [(cut.at, jobs) for cut, jobs in seen if jobs] == []
    assert len(seen) >= LIVES * CUTS / 2
    kinds = {cut.at.split()[0] for cut, _ in seen}
    assert kinds >= {"write", "flush"}


def test_without_the_flush_of_each_commit_a_power_cut_loses_jobs(tmp_path: Path) -> None:
    """The test above can fail."""
    assert any(jobs for _, jobs in cuts(tmp_path, Unflushed))


def test_a_flush_that_fails_is_no_receipt_and_loses_nothing_that_had_one(tmp_path: Path) -> None:
    failing = False

    def before(operation: str) -> None:
        if failing and operation == "flush":
            raise apsw.IOError("the disk does not answer")

    folder = tmp_path / "before"
    folder.mkdir()
    disk = Disk("power", before)
    with default_disk(disk, checkpoint=1000):
        backlog = OneConnection(str(folder / "backlog.db"))
        backlog.put([job("accepted", 1)])
        failing = True
        with pytest.raises(StoreBroken):
            backlog.put([job("unknown", 1)])
        failing = False
        images = [disk.after_a_cut(Random(seed)) for seed in range(20)]
        backlog.close()
    disk.unregister()
    for number, files in enumerate(images):
        assert lost(tmp_path / f"after-{number}", Cut(files, ["accepted"], [], "flush")) == []
