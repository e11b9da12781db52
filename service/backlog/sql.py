"""The statements of the SQLite engine, each with what it guarantees."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from service.backlog.base import AGEING
from service.job import HISTORY_MAX

# Of each name, how many were put, and how often one came to each final state, whichever statement brought it there.
# What is put together is counted by its names: a trigger, for each row, was a quarter of a put.
TALLY = """
CREATE TABLE tally (name TEXT, state TEXT, n INTEGER NOT NULL, PRIMARY KEY (name, state)) STRICT, WITHOUT ROWID;
CREATE TRIGGER jobs_came_to_an_end AFTER UPDATE OF finished_at ON jobs
WHEN OLD.finished_at IS NULL AND NEW.finished_at IS NOT NULL BEGIN
    INSERT INTO tally VALUES (NEW.name, NEW.state, 1) ON CONFLICT DO UPDATE SET n = n + 1;
END;
"""

# Few jobs end so; they are listed, and queued again, by state, of all names or of one.
BADLY_INDEXES = """
CREATE INDEX jobs_ended_badly ON jobs (state, seq) WHERE state IN ('failed', 'cancelled', 'expired');
CREATE INDEX jobs_ended_badly_named ON jobs (state, name, seq) WHERE state IN ('failed', 'cancelled', 'expired');
"""

# What all producers ever counted.
SAMPLES = "CREATE TABLE samples (sample TEXT PRIMARY KEY, n INTEGER NOT NULL) STRICT;"

SCHEMA = f"""
CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY,            -- order of arrival
    id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    args TEXT NOT NULL,
    state TEXT NOT NULL,
    priority INTEGER NOT NULL,
    timeout REAL NOT NULL,
    attempts INTEGER NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0,
    crashes INTEGER NOT NULL DEFAULT 0,
    losses INTEGER NOT NULL DEFAULT 0,  -- producers that died or hung while they held it
    token INTEGER NOT NULL DEFAULT 0,   -- fencing token, and version: one more with every change of state
    worker TEXT,                        -- who holds it, while running
    due_boot TEXT,                      -- a retry waits until `due` on the clock of this boot
    due REAL,
    expires_boot TEXT,                  -- never started, it expires at `expires` on the clock of this boot
    expires REAL,
    expires_at REAL,                    -- the same, for people
    cancel INTEGER NOT NULL DEFAULT 0,  -- 1: somebody wants it ended while it runs
    callback TEXT,                      -- URL that is told of its end
    telling INTEGER NOT NULL DEFAULT 0, -- 1: it has ended, and that is still to be told
    rank REAL NOT NULL,                 -- order of claims: when it was due, less AGEING for each step of priority
    created_at REAL NOT NULL,
    run_at REAL NOT NULL,
    started_at REAL,
    finished_at REAL,
    result TEXT,
    error TEXT,
    history TEXT NOT NULL DEFAULT '[]'
) STRICT;
-- Partial, so that finished jobs cost claiming nothing.
CREATE INDEX jobs_ready ON jobs (rank, seq) WHERE state = 'queued' AND due_boot IS NULL;
CREATE INDEX jobs_oldest ON jobs (run_at) WHERE state = 'queued' AND due_boot IS NULL;
CREATE INDEX jobs_waiting ON jobs (due_boot, due) WHERE due_boot IS NOT NULL;
CREATE INDEX jobs_expiring ON jobs (expires_boot, expires) WHERE expires_boot IS NOT NULL;
CREATE INDEX jobs_running ON jobs (worker) WHERE state = 'running';
CREATE INDEX jobs_cancelling ON jobs (worker) WHERE cancel = 1;
{BADLY_INDEXES}
CREATE TABLE workers (worker TEXT PRIMARY KEY, boot TEXT NOT NULL, lease_until REAL NOT NULL) STRICT;
CREATE TABLE counts (state TEXT PRIMARY KEY, n INTEGER NOT NULL) STRICT;  -- of those that are here; and 'removed'
CREATE TABLE keys (key TEXT PRIMARY KEY, id TEXT NOT NULL, fingerprint BLOB NOT NULL, at REAL NOT NULL) STRICT;
CREATE INDEX keys_at ON keys (at);
CREATE TABLE marks (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
{TALLY}{SAMPLES}
"""

# However a job ends, its callback is there with its end; and gone with the job, or with its end.
CALLBACKS = """
CREATE TABLE callbacks (
    place INTEGER PRIMARY KEY,
    job TEXT NOT NULL,                       -- its id
    version INTEGER NOT NULL,
    url TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'pending',   -- or delivered, or failed
    tries INTEGER NOT NULL DEFAULT 0,
    worker TEXT,                             -- who tells it now
    due REAL NOT NULL DEFAULT 0,             -- on the clock of this boot
    error TEXT
) STRICT;
CREATE INDEX callbacks_due ON callbacks (due) WHERE state = 'pending' AND worker IS NULL;
CREATE INDEX callbacks_held ON callbacks (worker) WHERE worker IS NOT NULL;
CREATE INDEX callbacks_job ON callbacks (job);
CREATE TRIGGER job_ended AFTER UPDATE OF state ON jobs
WHEN new.callback IS NOT NULL AND new.finished_at IS NOT NULL BEGIN
    INSERT INTO callbacks (job, version, url) VALUES (new.id, new.token, new.callback);
END;
CREATE TRIGGER job_requeued AFTER UPDATE OF state ON jobs
WHEN old.callback IS NOT NULL AND old.finished_at IS NOT NULL AND new.finished_at IS NULL BEGIN
    DELETE FROM callbacks WHERE job = old.id;
END;
CREATE TRIGGER job_removed AFTER DELETE ON jobs WHEN old.callback IS NOT NULL BEGIN
    DELETE FROM callbacks WHERE job = old.id;
END;
"""
# So that what is kept for its callback alone is not looked at when others are removed.
TELLING_MARKS = """
CREATE INDEX jobs_ended ON jobs (finished_at) WHERE finished_at IS NOT NULL AND telling = 0;
CREATE TRIGGER callback_begins AFTER INSERT ON callbacks BEGIN
    UPDATE jobs SET telling = 1 WHERE id = new.job;
END;
CREATE TRIGGER callback_ends AFTER UPDATE OF state ON callbacks WHEN new.state <> 'pending' BEGIN
    UPDATE jobs SET telling = 0 WHERE id = new.job;
END;
CREATE TRIGGER callback_is_given_up AFTER DELETE ON callbacks BEGIN
    UPDATE jobs SET telling = 0 WHERE id = old.job;
END;
"""
SCHEMA += CALLBACKS + TELLING_MARKS

# Said in full, and of one state: only so does SQLite see that the index serves.
BADLY = "state IN ('failed', 'cancelled', 'expired') AND state = '{}'"

# The history without its oldest line once it is full: a job that is returned again and again must not grow for ever.
KEPT = f"iif(json_array_length(history) >= {HISTORY_MAX}, json_remove(history, '$[0]'), history)"

# Many at once: while a statement runs, the event loop has the interpreter, and it does not give it back between two
# rows as soon as it is asked. Row by row, a commit of 30 took three times as long.
ROWS = 64  # rows in one statement at most; for each number of them one is compiled, and kept
STATEMENTS = 4 * ROWS  # that are kept


def groups(count: int) -> Iterator[slice]:
    return (slice(start, min(start + ROWS, count)) for start in range(0, count, ROWS))


def rows(count: int, columns: str) -> str:
    return ", ".join([f"({columns})"] * count)


@cache
def put(count: int) -> str:
    """The same id again is not a second job."""
    return f"""
INSERT INTO jobs (id, name, args, state, priority, timeout, attempts, created_at, run_at, rank,
                  due_boot, due, expires_boot, expires, expires_at, callback)
VALUES {rows(count, "?, ?, ?, 'queued', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?")} ON CONFLICT (id) DO NOTHING
"""


NEWEST = "SELECT coalesce(max(seq), 0) FROM jobs"
COUNT_PUTS = "INSERT INTO tally VALUES (?, 'queued', ?) ON CONFLICT DO UPDATE SET n = n + excluded.n"
HERE = "SELECT id FROM jobs WHERE id IN (SELECT value FROM json_each(?)) AND seq <= ?"

# What waits for its time is not before it. At most COUNTED steps, so that a put into a long backlog costs no more than
# one into a short one.
AHEAD = """
SELECT count(*) FROM (SELECT 1 FROM jobs WHERE state = 'queued' AND due_boot IS NULL AND rank <= ? LIMIT ?)
"""

# Who has used this idempotency key, and for what.
KEY = "SELECT keys.id, fingerprint, state FROM keys LEFT JOIN jobs ON jobs.id = keys.id WHERE key = ? AND at > ?"
KEEP_KEY = "INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?)"
PRUNE_KEYS = "DELETE FROM keys WHERE key IN (SELECT key FROM keys WHERE at <= ? ORDER BY at LIMIT ?)"

# The first jobs in order, as one JSON array: a row at a time would be as slow as it is for `put`. It looks at `look` of
# them at most: a hundred thousand that have expired, and that nobody has swept, would hold up every claim, and with it
# every put.
FIRST = """
SELECT json_group_array(json_array(seq, name, crashes, losses, size))
FROM (SELECT * FROM (SELECT seq, name, crashes, losses, octet_length(args) AS size, expires_boot, expires FROM jobs
                     WHERE state = 'queued' AND due_boot IS NULL ORDER BY rank, seq LIMIT :look)
      WHERE expires_boot IS NULL OR expires > :clock LIMIT :most)
"""
# Of those that are taken; of all that were looked at, the arguments may be gigabytes.
TAKEN = """
SELECT json_group_array(json_array(
    rank, seq, id, name, args, timeout, attempts, priority, token + 1, attempt + 1, crashes, losses, run_at))
FROM jobs WHERE seq IN (SELECT value FROM json_each(:seqs))
"""
# In the same transaction, under the write lock: two workers can never take the same job.
CLAIM = """
UPDATE jobs SET state = 'running', worker = :worker, attempt = attempt + 1, token = token + 1, started_at = :now,
    expires_boot = NULL, expires = NULL
WHERE seq IN (SELECT value FROM json_each(:seqs)) AND state = 'queued'
"""


@cache
def settle(count: int) -> str:
    """Only the holder of the current token can settle: a late outcome is refused. The sign keeps SQLite from going
    through all that runs instead of looking for each id."""
    return f"""
WITH now (wall, clock, boot) AS (VALUES (?, ?, ?)),
    told (id, token, state, attempt, crashes, result, error, entry, delay)
        AS (VALUES {rows(count, "?, ?, ?, ?, ?, ?, ?, ?, ?")})
UPDATE jobs SET state = told.state, worker = NULL, token = jobs.token + 1, attempt = told.attempt,
    crashes = told.crashes, cancel = iif(told.state = 'queued', cancel, 0), result = told.result, error = told.error,
    history = json_insert({KEPT}, '$[#]', json(told.entry)),
    run_at = iif(told.state = 'queued', now.wall + told.delay, run_at),
    finished_at = iif(told.state = 'queued', NULL, now.wall),
    due_boot = iif(told.delay > 0, now.boot, NULL), due = iif(told.delay > 0, now.clock + told.delay, NULL)
FROM told, now
WHERE jobs.id = told.id AND +jobs.state = 'running' AND jobs.token = told.token
"""


# A line of the history for what nobody ran.
NOT_RUN = """json_object(
        'attempt', attempt, 'worker', NULL, 'started_at', NULL,
        'finished_at', strftime('%Y-%m-%dT%H:%M:%fZ', :now, 'unixepoch'), 'outcome', {outcome}, 'reason', :reason,
        'cpu_seconds', NULL, 'max_rss_bytes', NULL, 'output', NULL, 'state', {state}, 'version', token + 1)"""

ENDED_UNRUN = f"""
UPDATE jobs SET state = :state, token = token + 1, finished_at = :now, cancel = 0,
    due_boot = NULL, due = NULL, expires_boot = NULL, expires = NULL,
    history = json_insert({KEPT}, '$[#]', {NOT_RUN.format(outcome=":state", state=":state")})
"""

CANCEL = f"{ENDED_UNRUN} WHERE id = :id AND state = 'queued'"
# Of a running job: its worker is told, and it is not queued again.
ASK_TO_CANCEL = "UPDATE jobs SET cancel = 1 WHERE id = ? AND state = 'running'"
CANCELLING = "SELECT id, token FROM jobs WHERE worker = ? AND cancel = 1"
# What came back from a worker after somebody wanted it ended.
CANCEL_RETURNED = f"{ENDED_UNRUN} WHERE cancel = 1 AND state = 'queued'"

EXPIRE = f"""{ENDED_UNRUN}
WHERE state = 'queued' AND seq IN
    (SELECT seq FROM jobs WHERE expires_boot = :boot AND expires <= :clock LIMIT :bite)
"""

REQUEUE = f"""
UPDATE jobs SET state = 'queued', token = token + 1, attempt = 0, crashes = 0, losses = 0, cancel = 0,
    result = NULL, error = NULL, started_at = NULL, finished_at = NULL, expires_at = NULL,
    run_at = :now, rank = :rank - {AGEING} * priority,
    history = json_insert({KEPT}, '$[#]', {NOT_RUN.format(outcome="'requeued'", state="'queued'")})
"""
# The state is named twice: only so is an index used that has no other jobs. Of each name, and of one.
REQUEUE_MANY = {
    named: f"""{REQUEUE}
WHERE seq IN (SELECT seq FROM jobs
              WHERE state IN ('failed', 'cancelled', 'expired') AND state = :state AND finished_at < :before{of_one}
              ORDER BY seq LIMIT :bite)
"""
    for named, of_one in ((False, ""), (True, " AND name = :name"))
}
REQUEUE_ONE = f"{REQUEUE} WHERE id = :id AND state IN ('failed', 'cancelled', 'expired')"

# Retries and delayed jobs whose time has come.
PROMOTE = """
UPDATE jobs SET due_boot = NULL, due = NULL
WHERE seq IN (SELECT seq FROM jobs WHERE due_boot = :boot AND due <= :clock LIMIT :most)
"""

# The clock only compares within its boot. After a reboot the time of every retry has come; what was never claimed
# waits for its `run_at`, and expires, by the wall clock that was in force when it was put.
PROMOTE_AFTER_REBOOT = """
UPDATE jobs SET due_boot = iif(token = 0 AND run_at > :now, :boot, NULL),
    due = iif(token = 0 AND run_at > :now, :clock + run_at - :now, NULL)
WHERE due_boot IS NOT NULL AND due_boot <> :boot
"""
EXPIRE_AFTER_REBOOT = """
UPDATE jobs SET expires_boot = :boot, expires = :clock + expires_at - :now
WHERE expires_boot IS NOT NULL AND expires_boot <> :boot
"""

# What the clock of this boot is added to, to be seconds since the epoch; there once this boot's first start is over.
EPOCH = "SELECT value FROM marks WHERE name = 'epoch ' || :boot"
NEW_EPOCH = "INSERT INTO marks VALUES ('epoch ' || :boot, :now - :clock)"
FORGET_EPOCHS = "DELETE FROM marks WHERE name LIKE 'epoch %'"

CALLBACKS_AFTER_REBOOT = "UPDATE callbacks SET due = 0 WHERE state = 'pending'"

AFTER_REBOOT = (PROMOTE_AFTER_REBOOT, EXPIRE_AFTER_REBOOT, CALLBACKS_AFTER_REBOOT, FORGET_EPOCHS, NEW_EPOCH)

EXPIRED = "SELECT worker FROM workers WHERE boot <> :boot OR lease_until < :clock"

# What a worker held when it died is nobody's fault: the attempt does not count.
LOST = f"""
UPDATE jobs SET state = 'queued', worker = NULL, token = token + 1, attempt = attempt - 1, losses = losses + 1,
    history = json_insert({KEPT}, '$[#]', json_object(
        'attempt', attempt, 'worker', worker,
        'started_at', strftime('%Y-%m-%dT%H:%M:%fZ', started_at, 'unixepoch'),
        'finished_at', strftime('%Y-%m-%dT%H:%M:%fZ', :now, 'unixepoch'),
        'outcome', 'lost', 'reason', :reason, 'cpu_seconds', NULL, 'max_rss_bytes', NULL, 'output', NULL,
        'state', 'queued', 'version', token + 1))
WHERE worker = :worker AND state = 'running'
"""

# The result as it is stored: one that is deeper than SQLite reads would be an error here, again and again.
DUE_CALLBACKS = """
SELECT place, job, version, url, tries + 1, name, jobs.state, attempt, finished_at, result, jobs.error
FROM callbacks CROSS JOIN jobs ON jobs.id = job
WHERE callbacks.state = 'pending' AND callbacks.worker IS NULL AND callbacks.due <= :clock
ORDER BY callbacks.due LIMIT :limit
"""
CLAIM_CALLBACKS = """
UPDATE callbacks SET worker = ?, tries = tries + 1 WHERE place IN (SELECT value FROM json_each(?))
"""
# Only by who tells it now: a worker that hung may have lost it to another.
SETTLE_CALLBACK = """
UPDATE callbacks SET worker = NULL, state = :state, error = :error, due = :due
WHERE place = :place AND worker = :worker AND tries = :tries
"""
RELEASE_CALLBACKS = "UPDATE callbacks SET worker = NULL WHERE worker = :worker"

GET = """
SELECT id, name, args, timeout, attempts, priority,
       state, attempt, token, created_at, run_at, expires_at, started_at, finished_at, result, error, history,
       iif(callback IS NULL, NULL, coalesce(
           (SELECT json_object('url', url, 'state', callbacks.state, 'tries', tries, 'error', callbacks.error)
            FROM callbacks WHERE callbacks.job = jobs.id),
           json_object('url', callback, 'state', 'waiting', 'tries', 0, 'error', NULL)))
FROM jobs WHERE id = ?
"""

VERSIONS = "SELECT id, token FROM jobs WHERE id IN (SELECT value FROM json_each(?))"

LISTED = """
SELECT seq, id, name, state, priority, attempt, attempts, created_at, run_at, started_at, finished_at,
       iif(error IS NULL, NULL,
           CAST(json_object('type', error ->> 'type', 'message', substr(error ->> 'message', 1, 200)) AS BLOB))
FROM jobs
"""
# Few jobs are in these states, and an index has only them. By state, and whether of one name only.
LIST_INDEXED = {
    (state, named): f"""{LISTED} INDEXED BY {index}
        WHERE {condition} AND seq < :before{" AND name = :name" if named else ""} ORDER BY seq DESC LIMIT :limit"""
    for named in (False, True)
    for state, index, condition in (
        ("running", "jobs_running", "state = 'running'"),
        *(
            (bad, "jobs_ended_badly_named" if named else "jobs_ended_badly", BADLY.format(bad))
            for bad in ("failed", "cancelled", "expired")
        ),
    )
}
# All others are found by looking at the newest, down to a floor.
LIST = f"""{LISTED}
WHERE seq < :before AND seq >= :floor AND (:state IS NULL OR state = :state) AND (:name IS NULL OR name = :name)
ORDER BY seq DESC LIMIT :limit
"""
FLOOR = "SELECT seq FROM jobs WHERE seq < ? ORDER BY seq DESC LIMIT 1 OFFSET ?"

OLDEST = "SELECT min(run_at) FROM jobs WHERE state = 'queued' AND due_boot IS NULL"

RUNNING = "SELECT worker, id, name, started_at FROM jobs WHERE state = 'running' ORDER BY worker, started_at"

# The oldest ended jobs, at most a bite of them: those beyond a time or a number. What is still to be told stays, and
# is not in the index that this reads: a receiver that is down must not make it slow. Above a number, they are counted.
PRUNE = """
DELETE FROM jobs WHERE seq IN
    (SELECT seq FROM jobs WHERE finished_at < :before AND telling = 0 ORDER BY finished_at LIMIT :bite)
RETURNING state, id
"""
TELLING = """
SELECT (SELECT count(*) FROM callbacks WHERE state = 'pending' AND worker IS NULL)
    + (SELECT count(*) FROM callbacks WHERE worker IS NOT NULL)
"""

# Ids are in order of time: whatever is no younger than the youngest that was removed, and is not here, was removed.
MARK_REMOVED = """
INSERT INTO marks VALUES ('removed', ?) ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)
"""

ENDED_HERE = "SELECT coalesce(sum(n), 0) FROM counts WHERE state NOT IN ('queued', 'running', 'removed')"
# Never less than before: what is queued again has ended all the same.
ENDED = "SELECT coalesce(sum(n), 0) FROM tally WHERE state <> 'queued'"

# What a worker has counted since it last did this.
PUBLISH = "INSERT INTO samples VALUES (?, ?) ON CONFLICT (sample) DO UPDATE SET n = n + excluded.n"

# From one schema to the next.
MIGRATIONS = {
    1: """
ALTER TABLE jobs ADD COLUMN losses INTEGER NOT NULL DEFAULT 0;
CREATE INDEX jobs_ended ON jobs (finished_at) WHERE finished_at IS NOT NULL;
CREATE TABLE keys (key TEXT PRIMARY KEY, id TEXT NOT NULL, fingerprint BLOB NOT NULL, at REAL NOT NULL) STRICT;
CREATE INDEX keys_at ON keys (at);
CREATE TABLE marks (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
""",
    2: f"""
ALTER TABLE jobs ADD COLUMN expires_boot TEXT;
ALTER TABLE jobs ADD COLUMN expires REAL;
ALTER TABLE jobs ADD COLUMN expires_at REAL;
ALTER TABLE jobs ADD COLUMN cancel INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN callback TEXT;
ALTER TABLE jobs ADD COLUMN rank REAL NOT NULL DEFAULT 0;
UPDATE jobs SET rank = run_at - {AGEING} * priority WHERE state IN ('queued', 'running');
DROP INDEX jobs_ready;
CREATE INDEX jobs_ready ON jobs (rank, seq) WHERE state = 'queued' AND due_boot IS NULL;
CREATE INDEX jobs_oldest ON jobs (run_at) WHERE state = 'queued' AND due_boot IS NULL;
CREATE INDEX jobs_expiring ON jobs (expires_boot, expires) WHERE expires_boot IS NOT NULL;
CREATE INDEX jobs_cancelling ON jobs (worker) WHERE cancel = 1;
{BADLY_INDEXES}
{CALLBACKS}
{TALLY}{SAMPLES}
""",
    # For a while, schema 3 was without the second of these, and it counted puts by a trigger.
    3: BADLY_INDEXES.replace("CREATE INDEX", "CREATE INDEX IF NOT EXISTS") + "DROP TRIGGER IF EXISTS jobs_put;",
    4: f"""
ALTER TABLE jobs ADD COLUMN telling INTEGER NOT NULL DEFAULT 0;
UPDATE jobs SET telling = 1 WHERE id IN (SELECT job FROM callbacks WHERE state = 'pending');
DROP INDEX jobs_ended;
{TELLING_MARKS}
""",
}
