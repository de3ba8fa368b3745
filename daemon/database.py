"""Opens the database file: alone, whole, durable, at the newest schema.

Rule: what comes out is a connection whose settings were read back, to a file in which no damage was
found, or `StoreRefused` with the way out; a damaged file is left as it is. One read-write
connection in one process: several versions of SQLite can damage a database when two write at once
(https://www.sqlite.org/wal.html#walresetbug).
"""

import json
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import quote

import aiosqlite

from daemon.ballast import Ballast
from daemon.folder import sync_directory
from daemon.inspection import (
    LEDGER_NAME,
    WAY_OUT,
    decode,
    inspect,
    is_full,
    is_large,
    newer,
    read_only,
)
from daemon.lock import Lock, StoreRefused, take_lock
from daemon.rules.lifecycle import TRANSITIONS
from daemon.schema import MIGRATIONS
from daemon.statements import ALL

OLDEST_SQLITE: Final = (3, 38)
"""3.35 has RETURNING, 3.37 STRICT tables, 3.38 the JSON functions as a part of every build."""
_FULL: Final = 2
_keepers: Final[list[sqlite3.Connection]] = []
"""Connections that are closed by the end of the process."""


@asynccontextmanager
async def open_database(
    state_dir: Path, ballast: Ballast | None = None
) -> AsyncIterator[aiosqlite.Connection]:
    """Open the ledger's file in `state_dir`, with the moves of the state machine loaded.

    `ballast` is given up where the disk is too full to open it.

    Raises:
        StoreRefused: a second daemon, a newer file, a damaged file, or a disk that cannot do it.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise StoreRefused(
            f"SQLite {sqlite3.sqlite_version} is too old, "
            f"{'.'.join(map(str, OLDEST_SQLITE))} is needed: install a newer Python"
        )
    with take_lock(state_dir) as lock:
        path = state_dir / LEDGER_NAME
        with _refusing(state_dir):
            inspect(path, lock)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            sync_directory(state_dir)
            if not lock.is_new:
                # Whoever opens and closes the file may fold the log in, and take it away.
                lock.mark("closed", ballast)
        async with _connect(path, ballast) as connection:
            with _refusing(state_dir), _keeping_log(path):
                # The log is there by now, and its name on the disk: it may not be missing any more.
                sync_directory(state_dir)
                lock.mark("open", ballast)
            with _closing_mark(lock, path):
                yield connection


@asynccontextmanager
async def open_reader(state_dir: Path) -> AsyncIterator[aiosqlite.Connection]:
    """Open the ledger beside the connection that writes, for reading alone.

    A reader never holds a commit up, nor is held up by one. It goes first: the connection that is
    closed last folds the log in, and this one cannot.
    """
    uri = f"file:{quote(str(state_dir / LEDGER_NAME))}?mode=ro"
    async with aiosqlite.connect(uri, uri=True, isolation_level=None) as connection:
        connection.text_factory = decode
        for name in ("busy_timeout", "temp_store"):
            await connection.execute_fetchall(f"PRAGMA {name} = {_PRAGMAS[name]}")
        yield connection


@contextmanager
def _refusing(state_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreRefused(f"{state_dir} cannot be written: {error}") from error


@contextmanager
def _closing_mark(lock: Lock, path: Path) -> Iterator[None]:
    """Note that the ledger is closed, before it is.

    Where that cannot be noted, the log has to stay: the last connection that closes would fold it
    in, and the next start would miss it.
    """
    refused = False
    try:
        yield
    except StoreRefused:
        # Damage that the first statements met: the log is not folded into such a file.
        refused = True
        _keep_log(path)
        raise
    finally:
        try:
            if not refused:
                lock.mark("closed")
        except OSError:
            _keep_log(path)


@contextmanager
def _keeping_log(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError:
        # A note that could not be synced may be read all the same: then the log has to be there.
        _keep_log(path)
        raise


def _keep_log(path: Path) -> None:
    """Let no connection that closes be the last one, which folds the log in and takes it away."""
    with suppress(sqlite3.DatabaseError, UnicodeDecodeError):
        _keepers.append(read_only(path))
        _keepers[-1].execute("SELECT count(*) FROM sqlite_schema").fetchall()


@asynccontextmanager
async def _connect(path: Path, ballast: Ballast | None) -> AsyncIterator[aiosqlite.Connection]:
    while True:
        async with aiosqlite.connect(path, isolation_level=None) as connection:
            connection.text_factory = decode
            try:
                await _prepare(connection, path)
            except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
                full = isinstance(error, sqlite3.Error) and is_full(error)
                if ballast is not None and full and ballast.release():
                    continue
                _keep_log(path)
                hint = ": make room on its disk" if full else f". {WAY_OUT}"
                raise StoreRefused(f"{path} cannot be used: {error}{hint}") from error
            yield connection
            return


_PRAGMAS = MappingProxyType(
    {
        "busy_timeout": 5_000,
        "trusted_schema": 0,
        "cell_size_check": 1,
        "journal_size_limit": 64 << 20,
        "temp_store": 2,
    }
)


_MIGRATING = MappingProxyType(
    {
        # KiB. Rows are looked up by the million; else SQLite's own 2 MiB do.
        "cache_size": -64 << 10,
        # Where the library is built to overwrite what is deleted, a table that is dropped would
        # go through the log, and through memory.
        "secure_delete": 0,
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
    # It reads every row. A file that was cut is noticed by its size, however large it is.
    if not is_large(path):
        found = await _read(connection, "PRAGMA integrity_check(1)")
        if found != "ok":
            raise StoreRefused(f"{path} is damaged: {found}. {WAY_OUT}")
    mode = await _read(connection, "PRAGMA journal_mode = WAL")
    if mode != "wal":
        raise StoreRefused(f"{path} cannot use a write-ahead log here: use a local disk")
    await connection.execute_fetchall("PRAGMA synchronous = FULL")
    level = await _read(connection, "PRAGMA synchronous")
    if level != _FULL:
        raise StoreRefused(f"{path}: synchronous is {level}, FULL was asked for")
    await _migrate(connection, seen)
    # A damaged schema may have columns of other names.
    await connection.execute_fetchall(f"SELECT {ALL} FROM task LIMIT 0")  # noqa: S608 - a constant
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
        raise newer(path, seen)
    return seen


async def _migrate(connection: aiosqlite.Connection, seen: int) -> None:
    if seen == len(MIGRATIONS):
        return
    usual = {name: await _read(connection, f"PRAGMA {name}") for name in _MIGRATING}
    for name, value in _MIGRATING.items():
        await connection.execute_fetchall(f"PRAGMA {name} = {value}")
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
    for name, before in usual.items():
        await connection.execute_fetchall(f"PRAGMA {name} = {before}")
    await connection.execute_fetchall("PRAGMA shrink_memory")


async def _read(connection: aiosqlite.Connection, pragma: str) -> int | str:
    (row,) = await connection.execute_fetchall(pragma)
    value: int | str = row[0]
    return value
