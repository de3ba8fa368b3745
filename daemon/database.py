"""Opens the database file: alone, durable, at the newest schema.

Rule: what comes out is a connection whose settings were read back, or `StoreRefused` with the way
out. One read-write connection in one process: several versions of SQLite can damage a database
when two write at once (https://www.sqlite.org/wal.html#walresetbug).
"""

import fcntl
import json
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Final

import aiosqlite

from daemon.disk import sync_directory
from daemon.rules.lifecycle import TRANSITIONS
from daemon.schema import MIGRATIONS

OLDEST_SQLITE: Final = (3, 38)
"""3.35 has RETURNING, 3.37 STRICT tables, 3.38 the JSON functions as a part of every build."""
_FULL: Final = 2


class StoreRefused(Exception):
    """The database cannot be used; the text says why and what to do."""


@asynccontextmanager
async def open_database(state_dir: Path) -> AsyncIterator[aiosqlite.Connection]:
    """Open the ledger's file in `state_dir`, with the moves of the state machine loaded.

    Raises:
        StoreRefused: a second daemon, a newer file, a damaged file, or a disk that cannot do it.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise StoreRefused(
            f"SQLite {sqlite3.sqlite_version} is too old, "
            f"{'.'.join(map(str, OLDEST_SQLITE))} is needed: install a newer Python"
        )
    lock = _lock(state_dir)
    try:
        path = state_dir / "ledger.sqlite3"
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            sync_directory(state_dir)
        except OSError as error:
            raise StoreRefused(f"the database cannot be written: {error}") from error
        async with aiosqlite.connect(path, isolation_level=None) as connection:
            try:
                await _prepare(connection, path)
            except sqlite3.DatabaseError as error:
                raise StoreRefused(f"{path} cannot be used: {error}") from error
            yield connection
    finally:
        os.close(lock)


def _lock(state_dir: Path) -> int:
    path = state_dir / "lock"
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreRefused(f"the state folder cannot be written: {error}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StoreRefused(
            f"another daemon uses {path.parent}: stop it, or give this one its own state_dir"
        ) from None
    return descriptor


_PRAGMAS = MappingProxyType(
    {
        "busy_timeout": 5_000,
        "trusted_schema": 0,
        "cell_size_check": 1,
        "journal_size_limit": 64 << 20,
        "temp_store": 2,
    }
)


async def _prepare(connection: aiosqlite.Connection, path: Path) -> None:
    """Set and check the connection, bring the file to the newest schema, load the moves.

    Raises:
        StoreRefused: the file is newer than this program, or the disk cannot do it.
    """
    for name, value in _PRAGMAS.items():
        await connection.execute_fetchall(f"PRAGMA {name} = {value}")
    # Before the journal is switched: a newer file is left as it is.
    seen = await _count_steps(connection, path)
    mode = await _read(connection, "PRAGMA journal_mode = WAL")
    if mode != "wal":
        raise StoreRefused(f"{path} cannot use a write-ahead log here: use a local disk")
    await connection.execute_fetchall("PRAGMA synchronous = FULL")
    level = await _read(connection, "PRAGMA synchronous")
    if level != _FULL:
        raise StoreRefused(f"{path}: synchronous is {level}, FULL was asked for")
    await _migrate(connection, seen)
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


async def _count_steps(connection: aiosqlite.Connection, path: Path) -> int:
    seen = int(await _read(connection, "PRAGMA user_version"))
    if seen > len(MIGRATIONS):
        raise StoreRefused(
            f"{path} was written by a newer suno-videod (schema {seen}, this one knows "
            f"{len(MIGRATIONS)}): install the newer version again, or move the file away"
        )
    return seen


async def _migrate(connection: aiosqlite.Connection, seen: int) -> None:
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
