"""What a start that was refused leaves behind, and what is no reason to refuse one.

Rule: whatever hindered it, the next start finds the ledger as the last daemon left it.
"""

import shutil
import sqlite3  # noqa: TID251 - its error is expected here
from pathlib import Path

import pytest

from daemon.database import open_database
from daemon.lock import StoreRefused
from daemon.schema import MIGRATIONS
from tests.stations.quota import file_limit


async def leave_killed(folder: Path, version: int = len(MIGRATIONS)) -> Path:
    """Make the state folder of a daemon that was killed: its newest commits are in the log."""
    running, killed = folder / "running", folder / "killed"
    async with open_database(running) as connection:
        await connection.execute_fetchall("INSERT INTO balance VALUES (1, 20.0)")
        await connection.execute_fetchall(f"PRAGMA user_version = {version}")
        shutil.copytree(running, killed)
    return killed


async def test_an_older_program_does_not_take_the_log_of_a_newer_one(tmp_path: Path) -> None:
    """Killed, put back to an older version, which refuses: the newer one finds its log again."""
    killed = await leave_killed(tmp_path, len(MIGRATIONS) + 1)
    with pytest.raises(StoreRefused, match="newer suno-videod"):
        async with open_database(killed):
            pass
    left_open = (killed / "lock").read_text().startswith("open")
    assert (killed / "ledger.sqlite3-wal").exists() or not left_open


async def test_a_ledger_that_could_not_be_opened_once_opens_the_next_time(tmp_path: Path) -> None:
    """A lock file that cannot be written refuses one start, not all that follow."""
    killed = await leave_killed(tmp_path)
    lock = killed / "lock"
    said = lock.read_bytes()
    lock.unlink()
    # It can be opened and locked, and every write to it is ENOSPC.
    lock.symlink_to("/dev/full")
    with pytest.raises(StoreRefused, match="cannot be written"):
        async with open_database(killed):
            pass
    lock.unlink()
    lock.write_bytes(said)
    async with open_database(killed) as connection:
        rows = await connection.execute_fetchall("SELECT credits FROM balance")
    assert [row[0] for row in rows] == [20.0]


async def test_a_commit_that_found_no_room_is_no_damage(tmp_path: Path) -> None:
    """The head of its frame still fitted; nobody was told of it, and the daemon was killed."""
    running, killed = tmp_path / "running", tmp_path / "killed"
    async with open_database(running) as connection:
        await connection.execute_fetchall("INSERT INTO balance VALUES (1, 20.0)")
        with (
            file_limit((running / "ledger.sqlite3-wal").stat().st_size + 24),
            pytest.raises(sqlite3.OperationalError),
        ):
            await connection.execute_fetchall("INSERT INTO balance VALUES (2, 10.0)")
        shutil.copytree(running, killed)
    async with open_database(killed) as connection:
        rows = await connection.execute_fetchall("SELECT credits FROM balance")
    assert [row[0] for row in rows] == [20.0]


async def test_a_note_that_was_written_and_not_synced_takes_no_log_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that the ledger is open: the next start finds the log that belongs to that."""

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr("daemon.lock.os.fdatasync", fail)
        with pytest.raises(StoreRefused, match="cannot be written"):
            async with open_database(tmp_path / "state"):
                pass
    assert (tmp_path / "state" / "lock").read_text().startswith("open")
    async with open_database(tmp_path / "state") as connection:
        assert await connection.execute_fetchall("SELECT count(*) FROM task") is not None
