"""Fills a ledger with any number of tasks, as years of use would leave it.

Rule: the file is made by the daemon's own `open_database`, so the schema is always the newest one;
only rows are put in here. The same number of tasks and the same `now` give the same rows.

    python -m tests.benchmarks.ledger STATE_DIR TASKS
"""

import asyncio
import hashlib
import sqlite3  # noqa: TID251 - fills a ledger from outside
import time
from contextlib import closing
from pathlib import Path
from typing import Final

import click

from daemon.database import open_database
from daemon.inspection import LEDGER_NAME

OPEN_LIMIT: Final = 200
"""So many tasks, the newest, are still waiting: a backlog does not grow with the history."""
EVERY_MS: Final = 120_000
"""A video every two minutes: a million takes almost four years."""
RETENTION_MS: Final = 14 * 86_400_000
LATER_MS: Final = 3_600_000
"""Nothing falls due while somebody measures."""

# Per thousand finished tasks: 10 failed, 2 were lost, 20 were pruned, the others are done.
_STATE: Final = """
CASE WHEN number > :tasks - :open THEN iif(number % 2, 'wanted', 'expected')
     WHEN number % 1000 < 10 THEN 'failed'
     WHEN number % 1000 < 12 THEN 'lost'
     WHEN number % 1000 < 32 THEN 'pruned'
     ELSE 'done' END
"""

# In the order of `step`: every task has its final state, and the texts that belong to it.
_TASKS: Final = f"""
WITH RECURSIVE
counted (number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM counted WHERE number < :tasks),
made AS MATERIALIZED (
    SELECT number, {_STATE} AS state, :now - (:tasks - number) * {EVERY_MS} AS at,
           substr(digest(number), 1, 32) AS task_id, digest(-number) AS sha256
    FROM counted
),
placed AS (SELECT *, state IN ('done', 'pruned') AS finished FROM made)
INSERT INTO task (
    id, task_id, state, previous_state, cause, version, reason, message, provider_code, source,
    link, created_at, updated_at, stored_at, deadline_at, ask_at, asked_since, ask_pause_ms,
    fetch_at, attempts, failures, refusals, callbacks, size_bytes, spans, validator, sha256, path,
    duration_seconds, width, height, video_codec, audio_codec, audio_sample_rate
)
SELECT
    number, task_id, state,
    CASE state WHEN 'done' THEN 'stored' WHEN 'pruned' THEN 'done' WHEN 'lost' THEN 'wanted' END,
    CASE state WHEN 'wanted' THEN 'linked' WHEN 'expected' THEN 'adopted'
               WHEN 'failed' THEN 'declined' WHEN 'lost' THEN 'expired' ELSE 'finished' END,
    iif(finished, 6, 2),
    CASE state WHEN 'failed' THEN 'create_failed' WHEN 'lost' THEN 'deadline'
               WHEN 'wanted' THEN 'network' END,
    CASE state WHEN 'failed' THEN 'The video could not be created from this audio' END,
    CASE state WHEN 'failed' THEN 500 END,
    iif(state = 'expected', 'track', 'callback'),
    CASE WHEN state NOT IN ('expected', 'failed')
         THEN 'https://tempfile.example.com/r/' || substr(sha256, 1, 12) || '.mp4?signature='
              || sha256 END,
    at, at + iif(finished, 3000, 0), iif(finished, at + 3000, NULL), at + {RETENTION_MS},
    iif(state = 'expected', :now + {LATER_MS} + number % 997, NULL),
    iif(state = 'expected', at, NULL),
    iif(state = 'expected', 1800000, 0),
    iif(state = 'wanted', :now + {LATER_MS} + number % 997, NULL),
    iif(finished, 1, iif(state = 'wanted', 4, 0)),
    iif(state = 'wanted', 4, 0),
    iif(state = 'lost', 4, 0),
    iif(state = 'expected', 0, 1),
    iif(finished, 4000000 + number % 2000003, NULL),
    iif(finished, '0-' || (4000000 + number % 2000003), ''),
    iif(finished, '"' || substr(sha256, 1, 32) || '"', NULL),
    iif(finished, sha256, NULL),
    iif(finished, '/var/lib/suno-videod/videos/video_' || task_id || '.mp4', NULL),
    iif(finished, 180.0 + number % 60, NULL), iif(finished, 1080, NULL),
    iif(finished, 1920, NULL), iif(finished, 'avc1', NULL), iif(finished, 'mp4a', NULL),
    iif(finished, 48000, NULL)
FROM placed
"""  # noqa: S608 - constants

# What the triggers would have written: a finished task has four lines, any other one or two.
_HISTORY: Final = """
WITH step (state, place, before, after, cause, later_ms) AS (VALUES
    ('expected', 0, NULL, 'expected', 'adopted', 0),
    ('wanted', 0, NULL, 'wanted', 'linked', 0),
    ('failed', 0, NULL, 'failed', 'declined', 0),
    ('lost', 0, NULL, 'wanted', 'linked', 0),
    ('lost', 1, 'wanted', 'lost', 'expired', 0),
    ('done', 0, NULL, 'wanted', 'linked', 0),
    ('done', 1, 'wanted', 'verified', 'fetched', 2900),
    ('done', 2, 'verified', 'stored', 'published', 2950),
    ('done', 3, 'stored', 'done', 'finished', 3000)
)
INSERT INTO history (task, at, before, after, cause, reason)
SELECT task.id, task.created_at + later_ms, before, after, step.cause,
       iif(after IN ('failed', 'lost'), task.reason, NULL)
FROM task CROSS JOIN step ON step.state = iif(task.state = 'pruned', 'done', task.state)
ORDER BY task.id, place
"""


def fill(state_dir: Path, tasks: int, now: int | None = None) -> None:
    """Make the ledger of a state folder with so many tasks; `now` is in milliseconds."""
    asyncio.run(_make(state_dir))
    with closing(sqlite3.connect(state_dir / LEDGER_NAME, isolation_level=None)) as ledger:
        ledger.create_function("digest", 1, _digest, deterministic=True)
        # Nobody reads the file before it is whole, and it is synced once, at the end.
        ledger.execute("PRAGMA synchronous = OFF")
        ledger.execute("PRAGMA journal_mode = OFF")
        ledger.execute("PRAGMA cache_size = -1000000")
        ledger.execute("PRAGMA temp_store = MEMORY")
        ledger.execute("BEGIN")
        rebuilt = ledger.execute(
            "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL "
            "AND type IN ('trigger', 'index') AND tbl_name IN ('task', 'history')"
        ).fetchall()
        for kind, name, _ in rebuilt:
            ledger.execute(f"DROP {kind} {name}")
        moment = time.time_ns() // 1_000_000 if now is None else now
        ledger.execute(_TASKS, {"tasks": tasks, "open": min(OPEN_LIMIT, tasks // 5), "now": moment})
        ledger.execute(_HISTORY)
        for _, _, sql in rebuilt:
            ledger.execute(sql)
        ledger.execute("COMMIT")
        ledger.execute("PRAGMA synchronous = FULL")
        ledger.execute("PRAGMA journal_mode = WAL")


async def _make(state_dir: Path) -> None:
    async with open_database(state_dir):
        pass


def _digest(number: int) -> str:
    return hashlib.sha256(b"%d" % number).hexdigest()


@click.command()
@click.argument("state_dir", type=click.Path(path_type=Path))
@click.argument("tasks", type=int)
def main(state_dir: Path, tasks: int) -> None:
    """Fill the ledger of STATE_DIR with TASKS tasks."""
    began = time.perf_counter()
    fill(state_dir, tasks)
    size_bytes = (state_dir / LEDGER_NAME).stat().st_size
    seconds = time.perf_counter() - began
    click.echo(f"{tasks:,} tasks, {size_bytes / tasks:,.0f} bytes each, in {seconds:.1f} s")


if __name__ == "__main__":
    main()
