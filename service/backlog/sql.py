"""The statements of the SQLite engine, each with what it guarantees."""

from __future__ import annotations

from service.job import HISTORY_MAX

SCHEMA = """
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
    token INTEGER NOT NULL DEFAULT 0,   -- fencing token: one more with every claim
    worker TEXT,                        -- who holds it, while running
    due_boot TEXT,                      -- a retry waits until `due` on the clock of this boot
    due REAL,
    created_at REAL NOT NULL,
    run_at REAL NOT NULL,
    started_at REAL,
    finished_at REAL,
    result TEXT,
    error TEXT,
    history TEXT NOT NULL DEFAULT '[]'
) STRICT;
-- Partial, so that finished jobs cost claiming nothing.
CREATE INDEX jobs_ready ON jobs (priority DESC, seq) WHERE state = 'queued' AND due_boot IS NULL;
CREATE INDEX jobs_waiting ON jobs (due_boot, due) WHERE due_boot IS NOT NULL;
CREATE INDEX jobs_running ON jobs (worker) WHERE state = 'running';
CREATE INDEX jobs_ended ON jobs (finished_at) WHERE finished_at IS NOT NULL;
CREATE TABLE workers (worker TEXT PRIMARY KEY, boot TEXT NOT NULL, lease_until REAL NOT NULL) STRICT;
CREATE TABLE counts (state TEXT PRIMARY KEY, n INTEGER NOT NULL) STRICT;  -- of those that are here; and 'removed'
CREATE TABLE keys (key TEXT PRIMARY KEY, id TEXT NOT NULL, fingerprint BLOB NOT NULL, at REAL NOT NULL) STRICT;
CREATE INDEX keys_at ON keys (at);
CREATE TABLE marks (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
"""

# The history without its oldest line once it is full: a job that is returned again and again must not grow for ever.
KEPT = f"iif(json_array_length(history) >= {HISTORY_MAX}, json_remove(history, '$[0]'), history)"

# The same id again is not a second job.
PUT = """
INSERT INTO jobs (id, name, args, state, priority, timeout, attempts, created_at, run_at)
VALUES (?, ?, ?, 'queued', ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING RETURNING 1
"""

# Who has used this idempotency key, and for what.
KEY = "SELECT id, fingerprint FROM keys WHERE key = ? AND at > ?"
KEEP_KEY = "INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?)"
PRUNE_KEYS = "DELETE FROM keys WHERE key IN (SELECT key FROM keys WHERE at <= ? ORDER BY at LIMIT ?)"

# One statement under the write lock, so two workers can never take the same job.
CLAIM = """
UPDATE jobs SET state = 'running', worker = :worker, attempt = attempt + 1, token = token + 1, started_at = :now
WHERE seq IN (SELECT seq FROM jobs WHERE state = 'queued' AND due_boot IS NULL
              ORDER BY priority DESC, seq LIMIT :limit)
RETURNING id, name, args, timeout, attempts, priority, token, attempt, crashes, losses, seq
"""

# Only the holder of the current token can settle: a late outcome is refused.
SETTLE = f"""
UPDATE jobs SET state = :state, worker = NULL, attempt = :attempt, crashes = :crashes,
    result = :result, error = :error, history = json_insert({KEPT}, '$[#]', json(:entry)),
    run_at = iif(:state = 'queued', :now + :delay, run_at),
    finished_at = iif(:state = 'queued', NULL, :now),
    due_boot = iif(:delay > 0, :boot, NULL), due = iif(:delay > 0, :clock + :delay, NULL)
WHERE id = :id AND state = 'running' AND token = :token
RETURNING 1
"""

# Retries whose time has come.
PROMOTE = "UPDATE jobs SET due_boot = NULL, due = NULL WHERE due_boot = :boot AND due <= :clock"

# The clock only compares within its boot; after a reboot every retry's time has come.
PROMOTE_AFTER_REBOOT = """
UPDATE jobs SET due_boot = NULL, due = NULL WHERE due_boot IS NOT NULL AND due_boot <> ?
"""

OF_ANOTHER_BOOT = "SELECT 1 FROM jobs WHERE due_boot IS NOT NULL AND due_boot <> ? LIMIT 1"

EXPIRED = "SELECT worker FROM workers WHERE boot <> :boot OR lease_until < :clock"

# What a worker held when it died is nobody's fault: the attempt does not count.
LOST = f"""
UPDATE jobs SET state = 'queued', worker = NULL, attempt = attempt - 1, losses = losses + 1,
    history = json_insert({KEPT}, '$[#]', json_object(
        'attempt', attempt, 'worker', worker,
        'started_at', strftime('%Y-%m-%dT%H:%M:%fZ', started_at, 'unixepoch'),
        'finished_at', strftime('%Y-%m-%dT%H:%M:%fZ', :now, 'unixepoch'),
        'outcome', 'lost', 'reason', :reason, 'cpu_seconds', NULL))
WHERE worker = :worker AND state = 'running'
"""

GET = """
SELECT id, name, args, timeout, attempts, priority,
       state, attempt, created_at, run_at, started_at, finished_at, result, error, history
FROM jobs WHERE id = ?
"""

# From one priority to the next on the index, and the first of each: a step for each priority in use.
OLDEST = """
WITH RECURSIVE present (priority) AS (
    SELECT (SELECT priority FROM jobs WHERE state = 'queued' AND due_boot IS NULL ORDER BY priority DESC LIMIT 1)
    UNION ALL
    SELECT (SELECT priority FROM jobs WHERE state = 'queued' AND due_boot IS NULL AND priority < present.priority
            ORDER BY priority DESC LIMIT 1)
    FROM present WHERE priority IS NOT NULL
)
SELECT min((SELECT created_at FROM jobs
            WHERE state = 'queued' AND due_boot IS NULL AND priority = present.priority ORDER BY seq LIMIT 1))
FROM present WHERE priority IS NOT NULL
"""

RUNNING = "SELECT worker, id, name, started_at FROM jobs WHERE state = 'running' ORDER BY worker, started_at"

# The oldest ended jobs, at most a bite of them: those beyond a time or a number.
PRUNE = """
DELETE FROM jobs WHERE seq IN (SELECT seq FROM jobs WHERE finished_at < :before
                               ORDER BY finished_at LIMIT :bite)
RETURNING state, id
"""

# Ids are in order of time: whatever is no younger than the youngest that was removed, and is not here, was removed.
MARK_REMOVED = """
INSERT INTO marks VALUES ('removed', ?) ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)
"""

ENDED_HERE = "SELECT coalesce(sum(n), 0) FROM counts WHERE state NOT IN ('queued', 'running', 'removed')"
ENDED = "SELECT coalesce(sum(n), 0) FROM counts WHERE state NOT IN ('queued', 'running')"

# From one schema to the next.
MIGRATIONS = {
    1: """
ALTER TABLE jobs ADD COLUMN losses INTEGER NOT NULL DEFAULT 0;
CREATE INDEX jobs_ended ON jobs (finished_at) WHERE finished_at IS NOT NULL;
CREATE TABLE keys (key TEXT PRIMARY KEY, id TEXT NOT NULL, fingerprint BLOB NOT NULL, at REAL NOT NULL) STRICT;
CREATE INDEX keys_at ON keys (at);
CREATE TABLE marks (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
""",
}
