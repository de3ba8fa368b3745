"""The database file: how it opens, for whom it does not, and that closing leaves nothing behind."""

# ruff: noqa: ASYNC240 - a test may wait for its own disk

import os
import sqlite3  # noqa: TID251 - files of other programs are made here
import stat
import threading
from contextlib import suppress
from pathlib import Path

import aiosqlite  # noqa: TID251 - some connections are made by hand
import pytest

from daemon import database, inspection
from daemon.database import open_database
from daemon.lock import StoreRefused
from daemon.schema import MIGRATIONS


async def read(connection: aiosqlite.Connection, pragma: str) -> object:
    """Return what a pragma says."""
    ((value,),) = await connection.execute_fetchall(f"PRAGMA {pragma}")
    return value


async def test_what_is_committed_is_on_the_disk(tmp_path: Path) -> None:
    """WAL with synchronous=FULL: NORMAL would lose acknowledged callbacks in a power cut."""
    async with open_database(tmp_path) as connection:
        assert await read(connection, "synchronous") == 2
        assert await read(connection, "journal_mode") == "wal"
        assert await read(connection, "trusted_schema") == 0
        assert await read(connection, "user_version") == len(MIGRATIONS)


async def test_the_state_folder_is_private(tmp_path: Path) -> None:
    """Nobody else reads the ledger, whatever the umask is."""
    state_dir, before = tmp_path / "new" / "state", os.umask(0)
    try:
        async with open_database(state_dir) as connection:
            await connection.execute_fetchall("CREATE TABLE fills_the_log (id)")
            files = list(state_dir.iterdir())
            assert len(files) == 4
            for path in (state_dir, *files):
                assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    finally:
        os.umask(before)


@pytest.mark.parametrize("journal", ["delete", "wal"])
async def test_a_newer_file_is_refused_untouched(tmp_path: Path, journal: str) -> None:
    """A newer program's ledger is not even switched to another journal."""
    newer = sqlite3.connect(tmp_path / "ledger.sqlite3", isolation_level=None)
    newer.execute(f"PRAGMA journal_mode = {journal}")
    newer.execute("CREATE TABLE task (id INTEGER)")
    newer.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    newer.close()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(StoreRefused, match="newer suno-videod"):
        async with open_database(tmp_path):
            pytest.fail("a newer ledger was opened")
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert after == before | {"lock": b""}


async def test_a_second_daemon_is_refused_while_the_first_one_lives(tmp_path: Path) -> None:
    """Two writers could corrupt a WAL database; the lock goes with the process."""
    async with open_database(tmp_path) as connection:
        with pytest.raises(StoreRefused, match="another daemon"):
            async with open_database(tmp_path):
                pytest.fail("two daemons opened one ledger")
        assert await read(connection, "journal_mode") == "wal"
    async with open_database(tmp_path) as connection:
        assert await read(connection, "journal_mode") == "wal"


async def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path: Path) -> None:
    """What may still be mended by hand is not overwritten."""
    damaged = b"not a database, but somebody's bytes " * 100
    (tmp_path / "ledger.sqlite3").write_bytes(damaged)
    with pytest.raises(StoreRefused, match="cannot be used"):
        async with open_database(tmp_path):
            pytest.fail("a damaged ledger was opened")
    assert (tmp_path / "ledger.sqlite3").read_bytes() == damaged


@pytest.mark.parametrize("taken", ["state", "state/lock", "state/ledger.sqlite3"])
async def test_a_place_that_cannot_be_written_is_refused_in_words(
    tmp_path: Path, taken: str
) -> None:
    """Whatever is wrong with the folder is a refusal with a text, never a traceback."""
    if taken == "state":
        (tmp_path / taken).write_text("a file where the folder should be")
    else:
        (tmp_path / taken).mkdir(parents=True)
    with pytest.raises(StoreRefused, match="state"):
        async with open_database(tmp_path / "state"):
            pytest.fail("a ledger was opened in the wrong place")


async def test_an_old_sqlite_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library without JSON functions would fail at the first callback; better at the start."""
    monkeypatch.setattr(database, "OLDEST_SQLITE", (99, 0))
    with pytest.raises(StoreRefused, match=r"99\.0 is needed: install a newer Python"):
        async with open_database(tmp_path):
            pytest.fail("an old SQLite was accepted")
    assert not list(tmp_path.iterdir())


async def test_a_disk_without_a_write_ahead_log_is_refused(tmp_path: Path) -> None:
    """A network disk answers with another journal; a database in memory does the same."""
    async with aiosqlite.connect(":memory:", isolation_level=None) as connection:
        with pytest.raises(StoreRefused, match="use a local disk"):
            await database._prepare(connection, tmp_path)


async def test_a_weaker_synchronous_is_noticed(tmp_path: Path) -> None:
    """The setting is read back: a promise that rests on it must not rest on a wish."""

    def ignore_setting(action: int, name: str, value: str, _schema: str, _trigger: str) -> int:
        ignored = (sqlite3.SQLITE_PRAGMA, "synchronous", "FULL")
        return sqlite3.SQLITE_IGNORE if (action, name, value) == ignored else sqlite3.SQLITE_OK

    async with aiosqlite.connect(tmp_path / "ledger", isolation_level=None) as connection:
        await connection.execute_fetchall("PRAGMA synchronous = NORMAL")
        await connection.set_authorizer(ignore_setting)
        with pytest.raises(StoreRefused, match="synchronous is 1, FULL was asked for"):
            await database._prepare(connection, tmp_path)


async def test_a_migration_happens_as_a_whole_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that fails in the middle leaves the file at the step before, and can be repeated."""
    async with open_database(tmp_path):
        pass
    broken = ("CREATE TABLE later (id INTEGER)", "INSERT INTO nowhere VALUES (1)")
    for module in (database, inspection):
        monkeypatch.setattr(module, "MIGRATIONS", (*MIGRATIONS, broken))
    with pytest.raises(StoreRefused, match="no such table: nowhere"):
        async with open_database(tmp_path):
            pytest.fail("a half migrated ledger was opened")
    mended = ("CREATE TABLE later (id INTEGER)", "INSERT INTO later VALUES (1)")
    monkeypatch.setattr(database, "MIGRATIONS", (*MIGRATIONS, mended))
    for _ in range(2):
        async with open_database(tmp_path) as connection:
            assert await read(connection, "user_version") == len(MIGRATIONS) + 1
            ((count,),) = await connection.execute_fetchall("SELECT count(*) FROM later")
            assert count == 1


async def test_closing_leaves_no_thread_and_no_log(tmp_path: Path) -> None:
    """A forgotten thread would keep the process alive after its last line."""
    before = set(threading.enumerate())
    with suppress(ZeroDivisionError):
        async with open_database(tmp_path) as connection:
            assert set(threading.enumerate()) - before
            await connection.execute_fetchall("CREATE TABLE fills_the_log (id)")
            raise ZeroDivisionError
    assert {path.name for path in tmp_path.iterdir()} == {"ledger.sqlite3", "lock"}
    with suppress(StoreRefused):
        (tmp_path / "ledger.sqlite3").write_bytes(b"damaged" * 1000)
        async with open_database(tmp_path):
            pytest.fail("a damaged ledger was opened")
    for thread in set(threading.enumerate()) - before:
        thread.join(2)
        assert not thread.is_alive()
