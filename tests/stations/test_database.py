"""The database file: how it opens, for whom it does not, and that closing leaves nothing behind."""

# ruff: noqa: ASYNC240 - a test may wait for its own disk

import os
import sqlite3  # noqa: TID251 - files of other programs are made here
import stat
import threading
from contextlib import closing, suppress
from pathlib import Path

import aiosqlite  # noqa: TID251 - some connections are made by hand
import pytest

from daemon import database, inspection
from daemon.database import open_database, open_reader
from daemon.lock import StoreRefused
from daemon.schema import MIGRATIONS
from daemon.store import open_store


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


async def test_a_reader_cannot_write_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """There is one connection that writes; the log is folded in when both are closed."""
    async with open_database(tmp_path) as connection, open_reader(tmp_path) as reader:
        await connection.execute_fetchall("INSERT INTO balance VALUES (1, 20.0)")
        assert [tuple(row) for row in await reader.execute_fetchall("SELECT * FROM balance")] == [
            (1, 20.0)
        ]
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            await reader.execute_fetchall("INSERT INTO balance VALUES (2, 10.0)")
    assert not (tmp_path / "ledger.sqlite3-wal").exists()


async def test_a_ledger_of_the_fourth_schema_keeps_its_history(tmp_path: Path) -> None:
    """By row instead of by id, in the same order; and the settings of the migration are gone."""
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite3", isolation_level=None)) as old:
        for statement in (statement for step in MIGRATIONS[:4] for statement in step):
            old.execute(statement)
        for number in range(5):
            old.execute(
                "INSERT INTO task (task_id, state, cause, source, created_at, updated_at, "
                "deadline_at) VALUES (?, 'expected', 'adopted', 'track', 1, ?, 3)",
                (f"t{number}", number),
            )
        old.execute("UPDATE task SET state = 'failed', cause = 'declined', updated_at = 9")
        before = old.execute(
            "SELECT id, task_id, at, before, after, cause, reason FROM history ORDER BY id"
        ).fetchall()
        old.execute("PRAGMA user_version = 4")
    async with open_database(tmp_path) as connection:
        after = await connection.execute_fetchall(
            "SELECT history.id, task_id, at, before, after, history.cause, history.reason "
            "FROM history JOIN task ON task.id = task ORDER BY history.id"
        )
        assert [tuple(row) for row in after] == before
        assert len(before) == 10
        assert await read(connection, "cache_size") == -2_000
        assert await read(connection, "integrity_check") == "ok"
    async with open_store(tmp_path) as store:
        assert [(step.before, step.after) for step in await store.history("t3")] == [
            (None, "expected"),
            ("expected", "failed"),
        ]
