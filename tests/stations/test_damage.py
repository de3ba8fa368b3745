"""A ledger that was damaged while nobody looked: refused with the way out, and left as it is."""

import asyncio
import os
import shutil
import sqlite3  # noqa: TID251 - its connections are handed on
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from daemon import database, inspection, lock, soundness
from daemon.database import open_database
from daemon.lock import StoreRefused
from daemon.soundness import check_soundness
from daemon.store import StoreFailed, open_store
from daemon.wal import read_index

_KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from daemon.store import open_store

async def leave(state_dir):
    async with open_store(state_dir) as store:
        for number in range(20):
            await store.adopt([f"t{number}"], source="track", label="x" * 3000, now=1,
                              deadline_at=2, ask_at=None)
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(leave(Path(sys.argv[1])))
"""
FRAME_BYTES = 24 + 4096


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """The state folder of a daemon that was killed; its twenty tasks are in the log alone."""
    folder = tmp_path / "state"
    ended = subprocess.run([sys.executable, "-c", _KILLED, folder], check=False)  # noqa: S603
    assert ended.returncode == -9
    assert (folder / "ledger.sqlite3-wal").stat().st_size > 20 * FRAME_BYTES
    return folder


async def count(state_dir: Path) -> int:
    """Open the ledger as the daemon does and count its tasks."""
    async with open_store(state_dir) as store:
        return len(await store.tasks(limit=1000))


def contents(folder: Path) -> dict[str, bytes]:
    """Return everything that a start could have changed."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


async def refuse(state_dir: Path, match: str) -> None:
    """Expect two refusals in a row, for a service is started again and again, and no change."""
    before = contents(state_dir)
    for _ in range(2):
        with pytest.raises(StoreRefused, match=match) as refused:
            await count(state_dir)
        assert "Backup and restore" in str(refused.value)
        assert contents(state_dir) == before


async def test_a_killed_process_leaves_nothing_to_refuse(left: Path) -> None:
    """The way back after a crash is no way out that a person has to go."""
    assert await count(left) == 20
    assert (left / "lock").read_text().startswith("closed")
    assert await count(left) == 20


async def test_a_log_that_was_taken_away_is_missed(left: Path) -> None:
    """SQLite would open the file without it, and twenty tasks would be gone without a word."""
    (left / "ledger.sqlite3-wal").unlink()
    await refuse(left, r"-wal is missing.*remove .*lock")
    (left / "lock").unlink()
    assert await count(left) == 0


@pytest.mark.parametrize(
    "where", [3, 16, 25, 32 + 9, 32 + 24 + 100, 32 + 40 * FRAME_BYTES + 50, -FRAME_BYTES + 9]
)
async def test_a_flipped_bit_in_the_log_is_found(left: Path, where: int) -> None:
    """In its header, in a frame's header, in a page, early, late: commits behind it are missed."""
    log = left / "ledger.sqlite3-wal"
    data = bytearray(log.read_bytes())
    data[where] ^= 0x10
    log.write_bytes(data)
    await refuse(left, "-wal is damaged")
    # Whoever has no backup takes what can be read.
    (left / "lock").unlink()
    assert 0 <= await count(left) < 20


@pytest.mark.parametrize("size", [0, 31, 32, 5_000, 32 + 30 * FRAME_BYTES])
async def test_a_log_that_was_cut_is_found(left: Path, size: int) -> None:
    """Also at the very end of a frame: the index remembers how many there were."""
    os.truncate(left / "ledger.sqlite3-wal", size)
    await refuse(left, "-wal is damaged: (it holds|its first bytes)")


async def test_without_its_index_the_log_speaks_for_itself(left: Path) -> None:
    """Frames that stand behind the damage are commits that nobody would see any more."""
    (left / "ledger.sqlite3-shm").unlink()
    log = left / "ledger.sqlite3-wal"
    data = bytearray(log.read_bytes())
    data[32 + 30 * FRAME_BYTES + 1_000] ^= 1
    log.write_bytes(data)
    await refuse(left, "a damaged byte hides [1-9][0-9]* commits")


async def test_a_torn_index_is_not_believed(left: Path) -> None:
    """It holds nothing of its own, and SQLite makes it anew."""
    (left / "ledger.sqlite3-shm").write_bytes(os.urandom(32_768))
    assert read_index(left / "ledger.sqlite3-shm") is None
    assert await count(left) == 20


async def test_after_a_power_cut_the_last_commit_may_be_in_pieces(
    left: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It was acknowledged to nobody; two commits in pieces are damage on any day."""
    (left / "ledger.sqlite3-shm").unlink()
    rebooted = tmp_path / "boot_id"
    rebooted.write_text("another boot\n")
    monkeypatch.setattr(lock, "_BOOT_ID", rebooted)
    log = left / "ledger.sqlite3-wal"
    data = bytearray(log.read_bytes())
    torn = bytearray(data)
    torn[-2 * FRAME_BYTES + 1_000] ^= 1
    log.write_bytes(torn)
    assert await count(shutil.copytree(left, tmp_path / "copy")) == 19
    data[32 + 30 * FRAME_BYTES + 1_000] ^= 1
    log.write_bytes(data)
    await refuse(left, "a damaged byte hides")


def cut(path: Path) -> None:
    """Lose the end of the file."""
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    """Lose all of it."""
    path.write_bytes(b"")


def overwrite(path: Path) -> None:
    """Lose some pages."""
    data = bytearray(path.read_bytes())
    data[8192:20480] = b"\xa5" * 12_288
    path.write_bytes(data)


@pytest.mark.parametrize("harm", [cut, empty, overwrite, Path.unlink])
async def test_a_damaged_file_is_refused_before_anything_is_taken(
    left: Path, harm: Callable[[Path], None]
) -> None:
    """A ledger that once was there is not begun anew in silence, nor believed in part."""
    assert await count(left) == 20
    harm(left / "ledger.sqlite3")
    before = contents(left)
    with pytest.raises(StoreRefused, match="Backup and restore"):
        await count(left)
    kept = contents(left)
    assert {name: kept[name] for name in before if name.startswith("ledger.sqlite3")} == {
        name: before[name] for name in before if name.startswith("ledger.sqlite3")
    }


async def test_a_folder_of_an_older_version_has_no_mark(left: Path) -> None:
    """It opens as it always did, and has a mark from then on."""
    (left / "lock").write_bytes(b"")
    assert await count(left) == 20
    assert (left / "lock").read_text().startswith("closed")


async def test_the_mark_stands_while_the_ledger_is_open(tmp_path: Path) -> None:
    """Only once the log is on the disk, so that a crash at the start is never taken for theft."""
    async with open_database(tmp_path):
        assert (tmp_path / "lock").read_text().startswith("open ")
        assert (tmp_path / "ledger.sqlite3-wal").exists()
    assert (tmp_path / "lock").read_text().startswith("closed ")


async def test_a_large_ledger_is_checked_beside_the_work(
    left: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is found ends the process, and no start forgets it before a person did something."""
    assert await count(left) == 20
    monkeypatch.setattr(inspection, "CHECKED_AT_START_BYTES", 0)
    async with asyncio.timeout(10):
        waiting = asyncio.create_task(check_soundness(left))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        waiting.cancel()
    ledger = left / "ledger.sqlite3"
    data = bytearray(ledger.read_bytes())
    place = data.index(b"t7", data.index(b"t6"))
    data[place : place + 2] = b"u7"
    ledger.write_bytes(data)
    assert await count(left) == 20
    with pytest.raises(StoreFailed, match=r"is damaged: .*index") as caught:
        await check_soundness(left)
    assert caught.value.fatal
    with pytest.raises(StoreRefused, match=r"is damaged: .*index.*remove .*damaged"):
        await count(left)
    (left / "ledger.damaged").unlink()
    assert await count(left) == 20


async def test_a_small_ledger_is_checked_to_its_last_row_at_the_start(left: Path) -> None:
    """An index that disagrees with its table is the mark of an overwritten id."""
    assert await count(left) == 20
    ledger = left / "ledger.sqlite3"
    data = bytearray(ledger.read_bytes())
    place = data.index(b"t7", data.index(b"t6"))
    data[place : place + 2] = b"u7"
    ledger.write_bytes(data)
    await refuse(left, r"is damaged: .*index")


async def test_a_file_that_sqlite_cannot_read_is_refused_with_its_words(left: Path) -> None:
    """And without a trace of our look."""
    assert await count(left) == 20
    (left / "lock").write_text("closed\n")
    ledger = left / "ledger.sqlite3"
    ledger.write_bytes(b"no database at all " * 500)
    (left / "ledger.sqlite3-wal").write_bytes(b"")
    await refuse(left, "is damaged: file is not a database")


async def test_a_lock_that_cannot_be_written_at_the_end_keeps_the_log(
    left: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next start would miss it: the last connection that closes takes it away."""

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    async with open_store(left) as store:
        monkeypatch.setattr(lock.Lock, "mark", fail)
        await store.adopt(["new"], source="track", label=None, now=1, deadline_at=2, ask_at=None)
    assert (left / "lock").read_text().startswith("open")
    assert (left / "ledger.sqlite3-wal").exists()
    for keeper in database._keepers:
        keeper.close()
    monkeypatch.undo()
    assert await count(left) == 21


async def test_the_check_beside_the_work_can_be_interrupted(
    left: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that stops does not wait for it."""
    monkeypatch.setattr(inspection, "CHECKED_AT_START_BYTES", 0)
    async with open_store(left) as store:
        for _ in range(4):
            ids = [f"{uuid4()}" for _ in range(5_000)]
            await store.adopt(ids, source="track", label="x", now=1, deadline_at=2, ask_at=None)
        checking = asyncio.create_task(check_soundness(left))
        await asyncio.sleep(0.05)
        began = time.monotonic()
        checking.cancel()
        await asyncio.gather(checking, return_exceptions=True)
        assert checking.cancelled()
        assert time.monotonic() - began < 0.5


async def test_the_check_beside_the_work_stands_back(
    left: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds up the emptying of the log: put off while that grows, never first."""
    monkeypatch.setattr(inspection, "CHECKED_AT_START_BYTES", 0)
    monkeypatch.setattr(soundness, "LOOK_SECONDS", 0.001)
    monkeypatch.setattr(soundness, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(soundness, "GROWTH_LIMIT_BYTES", -1)
    niceness: list[int] = []
    found: list[str | None] = []

    def note(connection: sqlite3.Connection) -> str | None:
        niceness.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        found.append(inspection.find_bad_row(connection))
        return found[-1]

    monkeypatch.setattr(soundness, "find_bad_row", note)
    async with open_store(left) as store, asyncio.timeout(20):
        for _ in range(4):
            ids = [f"{uuid4()}" for _ in range(5_000)]
            await store.adopt(ids, source="track", label="x", now=1, deadline_at=2, ask_at=None)
        checking = asyncio.create_task(check_soundness(left))
        while len(niceness) < 3:  # noqa: ASYNC110 - a thread has no event
            await asyncio.sleep(0.005)
        assert found == []
        monkeypatch.setattr(soundness, "GROWTH_LIMIT_BYTES", 1 << 30)
        while not found:  # noqa: ASYNC110 - likewise
            await asyncio.sleep(0.005)
        assert found == [None]
        assert set(niceness) == {19}
        assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) < 19
        checking.cancel()
        await asyncio.gather(checking, return_exceptions=True)
