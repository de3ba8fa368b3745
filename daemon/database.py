"""Opens the database file: alone, whole, durable, at the newest schema.

Rule: what comes out is a connection whose settings were read back, to a file in which no damage was
found, or `StoreRefused` with the way out; a damaged file is left as it is. One read-write
connection in one process: several versions of SQLite can damage a database when two write at once
(https://www.sqlite.org/wal.html#walresetbug).

The lock file says whether the last process closed the database. While one is open there is always a
write-ahead log, so one that is missing then was taken away, with commits in it.
"""

import fcntl
import json
import os
import sqlite3
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import quote

import aiosqlite

from daemon.ballast import Ballast
from daemon.disk import sync_directory
from daemon.restoration import BACKUP_ID
from daemon.rules.lifecycle import TRANSITIONS
from daemon.schema import MIGRATIONS
from daemon.wal import find_damage, read_index

LEDGER_NAME: Final = "ledger.sqlite3"
OLDEST_SQLITE: Final = (3, 38)
"""3.35 has RETURNING, 3.37 STRICT tables, 3.38 the JSON functions as a part of every build."""
_FULL: Final = 2
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_APPLICATION_ID_AT: Final = 68
"""Where the file has it: https://www.sqlite.org/fileformat2.html#the_database_header."""
_WAY_OUT: Final = (
    "Nothing was changed. Put the newest backup in its place ('Backup and restore' in the README)"
)


class StoreRefused(Exception):
    """The database cannot be used; the text says why and what to do."""


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
    lock = _lock(state_dir)
    try:
        path = state_dir / LEDGER_NAME
        try:
            _inspect(path, os.pread(lock, 100, 0).decode(errors="replace"))
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            sync_directory(state_dir)
        except OSError as error:
            raise StoreRefused(f"the database cannot be written: {error}") from error
        async with _connect(path, ballast) as connection:
            # The log is there by now, and its name on the disk: from here on it may not be missing.
            sync_directory(state_dir)
            _mark(lock, "open")
            try:
                yield connection
            finally:
                _mark(lock, "closed")
    finally:
        os.close(lock)


@asynccontextmanager
async def _connect(path: Path, ballast: Ballast | None) -> AsyncIterator[aiosqlite.Connection]:
    while True:
        async with aiosqlite.connect(path, isolation_level=None) as connection:
            try:
                await _prepare(connection, path)
            except sqlite3.DatabaseError as error:
                if ballast is not None and is_full(error) and ballast.release():
                    continue
                hint = ": make room on its disk" if is_full(error) else f". {_WAY_OUT}"
                raise StoreRefused(f"{path} cannot be used: {error}{hint}") from error
            yield connection
            return


def is_full(error: sqlite3.Error) -> bool:
    """Tell whether an error may come from a disk, or a quota, without room.

    SQLite says so itself of ENOSPC; of EDQUOT, and of the shared memory of the log, it says that
    the disk failed.
    """
    code = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF == sqlite3.SQLITE_FULL or code in {
        sqlite3.SQLITE_IOERR_WRITE,
        sqlite3.SQLITE_IOERR_SHMSIZE,
        sqlite3.SQLITE_IOERR_TRUNCATE,
    }


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


def inspect_at_rest(state_dir: Path) -> None:
    """Look for damage where no daemon runs, before somebody else reads the ledger.

    Raises:
        StoreRefused: something is missing, or damaged.
    """
    try:
        lock = _lock(state_dir)
    except StoreRefused:
        return
    try:
        _inspect(state_dir / LEDGER_NAME, os.pread(lock, 100, 0).decode(errors="replace"))
    finally:
        os.close(lock)


def _boot_id() -> str:
    return _BOOT_ID.read_text().strip()


def _mark(lock: int, state: str) -> None:
    """Note durably whether the database is open. Always as long: a full disk lets it be changed."""
    try:
        os.pwrite(lock, f"{state:6} {_boot_id()}\n".encode(), 0)
        os.fdatasync(lock)
    except OSError as error:
        raise StoreRefused(f"the state folder cannot be written: {error}") from error


def _inspect(path: Path, mark: str) -> None:
    """Look for damage in what the last process left, through a connection that changes nothing.

    Raises:
        StoreRefused: something is missing, or damaged.
    """
    log, index = path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")
    size_bytes = path.stat().st_size if path.exists() else 0
    if mark and not size_bytes:
        raise StoreRefused(
            f"{path} is gone, or empty. {_WAY_OUT}; to begin anew, remove {path.parent / 'lock'}"
        )
    if size_bytes and _application_id(path) == BACKUP_ID:
        # It belongs to the file that was here before, and SQLite would mix the two.
        if log.exists():
            log.rename(log.with_name(f"{log.name}-before-restore"))
        index.unlink(missing_ok=True)
    elif mark.startswith("open") and not log.exists():
        raise StoreRefused(
            f"{log} is missing, and the newest commits were in it: put it back beside {path.name}. "
            f"{_WAY_OUT}; to go on without them, remove {path.parent / 'lock'}"
        )
    if not mark or not log.exists():
        return
    before, kept = read_index(index), index.read_bytes() if index.exists() else None
    try:
        # Read-only: the last one that closes would else empty the log, and the proof be gone.
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
            damage = find_damage(
                log, before, read_index(index), same_boot=mark.split()[1:] == [_boot_id()]
            )
    except sqlite3.DatabaseError as error:
        if is_full(error):
            return
        damage = str(error)
    if damage:
        # SQLite has made it anew, and the next start is to find the same proof in it.
        index.unlink()
        if kept is not None:
            index.write_bytes(kept)
        raise StoreRefused(
            f"{log} is damaged: {damage}. {_WAY_OUT}; "
            f"to go on with what can be read, remove {path.parent / 'lock'}"
        )


def _application_id(path: Path) -> int:
    with path.open("rb") as file:
        file.seek(_APPLICATION_ID_AT)
        found: tuple[int, ...] = struct.unpack(">I", file.read(4).rjust(4, b"\0"))
    return found[0]


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
    # It reads every page, so it finds a file that was cut, and most of what was overwritten.
    found = await _read(connection, "PRAGMA quick_check(1)")
    if found != "ok":
        raise StoreRefused(f"{path} is damaged: {found}. {_WAY_OUT}")
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
