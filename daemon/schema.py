"""The tables, and how a database file is brought to them.

Rule: the steps are numbered and only ever grow; a step that was released is never edited. Each is
a list of statements, for a text that is split at semicolons tears triggers apart.
"""

import json
from pathlib import Path
from types import MappingProxyType
from typing import Final

import aiosqlite

from daemon.rules.lifecycle import TRANSITIONS

_FULL: Final = 2


class StoreRefused(Exception):
    """The database cannot be used; the text says why and what to do."""


_TASK_STATES = "'expected', 'wanted', 'verified', 'stored', 'done', 'failed', 'lost', 'pruned'"
_REASONS = (
    "'bad_request', 'unauthorized', 'out_of_credits', 'source_audio', 'provider_error', "
    "'create_failed', 'generate_failed', 'unknown_task', 'link_refused', 'address_refused', "
    "'too_large', 'not_a_video', 'truncated', 'damaged', 'stalled', 'network', 'disk', "
    "'deadline', 'finish'"
)

_FIRST = (
    f"""
    CREATE TABLE task (
        id INTEGER PRIMARY KEY,
        task_id TEXT NOT NULL UNIQUE,
        label TEXT,
        state TEXT NOT NULL CHECK (state IN ({_TASK_STATES})),
        previous_state TEXT,
        cause TEXT NOT NULL,
        version INTEGER NOT NULL DEFAULT 1,
        reason TEXT CHECK (reason IN ({_REASONS})),
        message TEXT,
        provider_code INTEGER,
        source TEXT NOT NULL
            CHECK (source IN ('callback', 'submit', 'track', 'gateway', 'adopt')),
        music_task_id TEXT,
        audio_id TEXT,
        link TEXT,
        hint TEXT,
        hint_at INTEGER,
        unconfirmed INTEGER NOT NULL DEFAULT 0,
        created_at INTEGER NOT NULL,
        updated_at INTEGER NOT NULL,
        stored_at INTEGER,
        deadline_at INTEGER NOT NULL,
        forgotten_at INTEGER,
        ask_at INTEGER,
        asked_since INTEGER,
        ask_pause_ms INTEGER NOT NULL DEFAULT 0,
        answered_at INTEGER,
        unanswered_since INTEGER,
        denials INTEGER NOT NULL DEFAULT 0,
        denied_at INTEGER,
        questions INTEGER NOT NULL DEFAULT 0,
        questioned_at INTEGER,
        fetch_at INTEGER,
        claimed_at INTEGER,
        attempts INTEGER NOT NULL DEFAULT 0,
        failures INTEGER NOT NULL DEFAULT 0,
        refusals INTEGER NOT NULL DEFAULT 0,
        refusal_proofs INTEGER NOT NULL DEFAULT 0,
        refusal_proved_at INTEGER,
        spoils INTEGER NOT NULL DEFAULT 0,
        spoiled_sha256 TEXT,
        callbacks INTEGER NOT NULL DEFAULT 0,
        size_bytes INTEGER,
        spans TEXT NOT NULL DEFAULT '',
        validator TEXT,
        sha256 TEXT,
        path TEXT UNIQUE,
        duration_seconds REAL,
        width INTEGER,
        height INTEGER,
        video_codec TEXT,
        audio_codec TEXT,
        audio_sample_rate INTEGER,
        finish_error TEXT,
        CHECK (state <> 'wanted' OR (link IS NOT NULL AND fetch_at IS NOT NULL)),
        CHECK (state NOT IN ('verified', 'stored', 'done')
               OR (size_bytes IS NOT NULL AND sha256 IS NOT NULL AND path IS NOT NULL)),
        CHECK (state NOT IN ('stored', 'done') OR stored_at IS NOT NULL)
    ) STRICT
    """,
    "CREATE INDEX task_by_state ON task (state, id)",
    "CREATE INDEX task_to_ask ON task (ask_at) WHERE ask_at IS NOT NULL",
    """
    CREATE INDEX task_to_fetch ON task (fetch_at)
    WHERE state IN ('wanted', 'verified', 'stored')
    """,
    """
    CREATE TABLE history (
        id INTEGER PRIMARY KEY,
        task_id TEXT NOT NULL,
        at INTEGER NOT NULL,
        before TEXT,
        after TEXT NOT NULL,
        cause TEXT NOT NULL,
        reason TEXT
    ) STRICT
    """,
    "CREATE INDEX history_of_task ON history (task_id, id)",
    """
    CREATE TRIGGER task_adopted AFTER INSERT ON task BEGIN
        INSERT INTO history (task_id, at, before, after, cause, reason)
        VALUES (new.task_id, new.updated_at, NULL, new.state, new.cause, new.reason);
    END
    """,
    """
    CREATE TRIGGER task_moved AFTER UPDATE OF state ON task WHEN old.state <> new.state BEGIN
        INSERT INTO history (task_id, at, before, after, cause, reason)
        VALUES (new.task_id, new.updated_at, old.state, new.state, new.cause, new.reason);
    END
    """,
    """
    CREATE TABLE quarantine (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        received_at INTEGER NOT NULL,
        why TEXT NOT NULL,
        remote TEXT,
        content_type TEXT,
        sha256 TEXT NOT NULL UNIQUE,
        body BLOB NOT NULL,
        copies INTEGER NOT NULL DEFAULT 1,
        forgotten_at INTEGER
    ) STRICT
    """,
)

MIGRATIONS = (_FIRST,)
"""`PRAGMA user_version` is the number of steps that a file has seen."""

_PRAGMAS = MappingProxyType(
    {
        "busy_timeout": 5_000,
        "trusted_schema": 0,
        "cell_size_check": 1,
        "journal_size_limit": 64 << 20,
        "temp_store": 2,
    }
)


async def prepare(connection: aiosqlite.Connection, path: Path) -> None:
    """Set and check the connection, bring the file to the newest schema, load the moves.

    Raises:
        StoreRefused: the file is newer than this program, or the disk cannot do it.
    """
    for name, value in _PRAGMAS.items():
        await connection.execute_fetchall(f"PRAGMA {name} = {value}")
    mode = await _read(connection, "PRAGMA journal_mode = WAL")
    if mode != "wal":
        raise StoreRefused(f"{path} cannot use a write-ahead log here: use a local disk")
    await connection.execute_fetchall("PRAGMA synchronous = FULL")
    level = await _read(connection, "PRAGMA synchronous")
    if level != _FULL:
        raise StoreRefused(f"{path}: synchronous is {level}, FULL was asked for")
    await _migrate(connection, path)
    await connection.execute_fetchall(
        "CREATE TEMP TABLE transition (cause TEXT, before TEXT, after TEXT, "
        "PRIMARY KEY (cause, before)) WITHOUT ROWID"
    )
    moves = [
        (cause.value, before.value if before else "", after.value)
        for cause, table in TRANSITIONS.items()
        for before, after in table.items()
    ]
    await connection.execute_fetchall(
        "INSERT INTO transition SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?)",
        (json.dumps(moves),),
    )


async def _migrate(connection: aiosqlite.Connection, path: Path) -> None:
    seen = int(await _read(connection, "PRAGMA user_version"))
    if seen > len(MIGRATIONS):
        raise StoreRefused(
            f"{path} was written by a newer suno-videod (schema {seen}, this one knows "
            f"{len(MIGRATIONS)}): install the newer version again, or move the file away"
        )
    for number, statements in enumerate(MIGRATIONS[seen:], seen + 1):
        await connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in statements:
                await connection.execute(statement)
            await connection.execute(f"PRAGMA user_version = {number}")
        except BaseException:
            await connection.execute("ROLLBACK")
            raise
        await connection.execute("COMMIT")


async def _read(connection: aiosqlite.Connection, pragma: str) -> int | str:
    (row,) = await connection.execute_fetchall(pragma)
    value: int | str = row[0]
    return value
