"""Backups: a verified copy of a ledger in use, and what a daemon does that is given one."""

# ruff: noqa: ASYNC240 - a test may wait for its own disk

import asyncio
import shutil
import sqlite3  # noqa: TID251 - the copy is read as any program would
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing, suppress
from itertools import count
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from daemon.backup import BackupFailed, back_up
from daemon.disk import Disk
from daemon.restoration import BACKUP_ID
from daemon.restore import take_over
from daemon.rules.lifecycle import State
from daemon.rules.schedule import Pace
from daemon.rules.submission import Wish
from daemon.rules.task import Task
from daemon.rules.verdict import Terms
from daemon.store import Store, open_store
from tests.stations.quota import file_limit

Plant = Callable[..., Awaitable[Task]]
PACE = Pace(first_after_ms=180_000, interval_ms=30_000, limit_ms=21_600_000)
TERMS = Terms(pace=PACE, retry_first_ms=1, retry_limit_ms=2, has_key=True)
KEYLESS = Terms(pace=PACE, retry_first_ms=1, retry_limit_ms=2, has_key=False)
LINK = "https://files.example.com/a.mp4"


@pytest.fixture
def state_dir(tmp_path: Path, store: Store) -> Path:
    """The folder of the ledger in use."""
    assert isinstance(store, Store)
    return tmp_path / "state"


async def test_the_copy_is_whole_while_the_ledger_is_written(
    store: Store, state_dir: Path, tmp_path: Path
) -> None:
    """One file of one moment, private, checked and marked; what is committed later is not in it."""
    hundred = asyncio.Event()
    writing = asyncio.create_task(adopt_for_ever(store, hundred))
    try:
        await hundred.wait()
        copied = await asyncio.to_thread(back_up, state_dir, tmp_path / "copy")
    finally:
        writing.cancel()
        with suppress(asyncio.CancelledError):
            await writing
    target = tmp_path / "copy"
    assert copied.path == str(target)
    assert copied.size_bytes == target.stat().st_size
    assert target.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(target)) as copy:
        numbers = [row[0] for row in copy.execute("SELECT task_id FROM task ORDER BY id")]
        assert copy.execute("PRAGMA application_id").fetchone() == (BACKUP_ID,)
        assert copy.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert copied.tasks == len(numbers) >= 100
    assert numbers == [f"t{number}" for number in range(len(numbers))]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "state"]


async def adopt_for_ever(store: Store, hundred: asyncio.Event) -> None:
    """Commit one task after the other."""
    for number in count():
        await store.adopt(
            [f"t{number}"], source="track", label=None, now=1, deadline_at=2, ask_at=None
        )
        if number == 100:
            hundred.set()


def listing(folder: Path) -> list[str]:
    """Return the names of a folder, hidden ones included."""
    return sorted(path.name for path in folder.iterdir())


async def test_nothing_that_is_there_is_overwritten(
    store: Store, state_dir: Path, tmp_path: Path
) -> None:
    """An older backup is the last thing to lose; a link that leads nowhere is a name, too."""
    assert await store.writable()
    (tmp_path / "copy").write_text("the backup of yesterday")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("copy", "dangling"):
        with pytest.raises(FileExistsError):
            back_up(state_dir, tmp_path / name)
    assert (tmp_path / "copy").read_text() == "the backup of yesterday"
    assert listing(tmp_path) == ["copy", "dangling", "state"]


async def test_a_disk_without_room_leaves_nothing_behind(
    store: Store, state_dir: Path, tmp_path: Path
) -> None:
    """A torn copy never stands under the name that was asked for."""
    await store.adopt(["a"], source="track", label=None, now=1, deadline_at=2, ask_at=None)
    with file_limit(20_000), pytest.raises((OSError, BackupFailed)):
        back_up(state_dir, tmp_path / "copy")
    assert listing(tmp_path) == ["state"]
    with pytest.raises(BackupFailed, match="no ledger in"):
        back_up(tmp_path, tmp_path / "copy")


async def test_a_damaged_ledger_is_no_backup(tmp_path: Path) -> None:
    """Somebody would throw the good one away for it."""
    async with open_store(tmp_path / "state") as store:
        ids = [f"t{number}" for number in range(500)]
        await store.adopt(ids, source="track", label="x" * 90, now=1, deadline_at=2, ask_at=None)
    ledger = tmp_path / "state" / "ledger.sqlite3"
    data = bytearray(ledger.read_bytes())
    place = data.rindex(b"t321track") if b"t321track" in data else data.rindex(b"t321")
    data[place : place + 4] = b"t999"
    ledger.write_bytes(data)
    with pytest.raises(BackupFailed, match=r"is damaged: .*restore the newest"):
        back_up(tmp_path / "state", tmp_path / "copy")
    assert "copy" not in listing(tmp_path)


@pytest.fixture
async def restored(
    store: Store, plant: Plant, state_dir: Path, tmp_path: Path, now: Callable[[], int]
) -> AsyncIterator[Store]:
    """A ledger that was restored from a backup, beside the log of the one that is gone."""
    await plant("asked", State.EXPECTED)
    await plant("failed", State.FAILED, reason="generate_failed")
    await plant("late", State.LOST, deadline_at=now() - 1)
    await plant("seen", State.EXPECTED, forgotten_at=now())
    for name in ("whole", "short", "gone"):
        await plant(name, State.DONE, path=str(tmp_path / f"{name}.mp4"), size_bytes=5, link=LINK)
    await plant("over", State.DONE, path=str(tmp_path / "o.mp4"), deadline_at=now() - 1)
    (tmp_path / "whole.mp4").write_text("12345")
    (tmp_path / "short.mp4").write_text("123")
    wish = Wish(music_task_id="music", audio_id="audio", author=None, domain_name=None)
    for local_id, source in (("submit-1", "submit"), ("submit-2", "gateway")):
        await store.intents.record(
            local_id, wish, source=source, label=None, now=now(), deadline_at=now() + 1_000
        )
    back_up(state_dir, tmp_path / "copy")
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(tmp_path / "copy", other / "ledger.sqlite3")
    for name in ("ledger.sqlite3-wal", "ledger.sqlite3-shm", "lock"):
        shutil.copy(state_dir / name, other / name)
    async with open_store(other) as opened:
        yield opened


async def test_a_restored_ledger_asks_about_everything(
    restored: Store, disk: Disk, now: Callable[[], int], tmp_path: Path
) -> None:
    """What the world has done since the backup is asked; what is gone from the disk is fetched."""
    with capture_logs() as logs:
        await take_over(restored, disk, now(), TERMS)
        await take_over(restored, disk, now(), TERMS)
    asked = {
        task.task_id
        for task in await restored.tasks()
        if task.ask_at is not None and task.ask_at <= now()
    }
    assert asked == {"asked", "failed", "short", "gone"}
    assert [line for line in logs if line["event"] == "ledger.restored"] == [
        {"event": "ledger.restored", "log_level": "warning", "asked": 4, "missing": 2}
    ]
    states = {task.task_id: task.state for task in await restored.tasks()}
    assert (states["whole"], states["over"]) == (State.DONE, State.DONE)
    assert states["short"] == states["gone"] == State.EXPECTED
    assert (await restored.history("gone"))[-1].cause == "missing"
    assert listing(tmp_path / "other") == [
        *("ledger.sqlite3", "ledger.sqlite3-shm", "ledger.sqlite3-wal"),
        *("ledger.sqlite3-wal-before-restore", "lock"),
    ]


async def test_without_a_key_what_is_gone_is_fetched_by_its_link(
    restored: Store, disk: Disk, now: Callable[[], int]
) -> None:
    """Nobody can be asked, and the link at hand is all there is."""
    await take_over(restored, disk, now(), KEYLESS)
    gone = await restored.task("gone")
    assert gone is not None
    assert (gone.state, gone.fetch_at, gone.path) == (State.WANTED, now(), None)


async def test_a_wish_of_a_backup_is_not_sent_again(
    restored: Store, disk: Disk, now: Callable[[], int]
) -> None:
    """It may have been sent since, and a second video would be paid for: a person decides."""
    await take_over(restored, disk, now(), TERMS)
    await restored.intents.recover(now())
    await restored.intents.withdraw_unsent(now())
    for first in (True, False):
        assert await restored.intents.due(now() + 10**9, first=first) is None
    for local_id in ("submit-1", "submit-2"):
        task = await restored.task(local_id)
        assert task is not None
        assert (task.state, task.next_attempt_at) == (State.EXPECTED, None)


async def test_an_interrupted_restoration_begins_anew(
    restored: Store, disk: Disk, now: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mark goes last."""

    async def fail() -> None:
        raise InterruptedError

    with monkeypatch.context() as patched:
        patched.setattr(restored.restoration, "complete", fail)
        with pytest.raises(InterruptedError):
            await take_over(restored, disk, now(), TERMS)
    assert await restored.restoration.is_due()
    await take_over(restored, disk, now(), TERMS)
    assert not await restored.restoration.is_due()


async def test_its_log_belongs_to_it_from_then_on(
    restored: Store, disk: Disk, now: Callable[[], int], tmp_path: Path
) -> None:
    """A crash right after the restoration loses nothing that was taken since."""
    await take_over(restored, disk, now(), TERMS)
    await restored.adopt(
        ["new"], source="track", label=None, now=now(), deadline_at=now() + 1, ask_at=None
    )
    crashed = shutil.copytree(tmp_path / "other", tmp_path / "crashed")
    async with open_store(crashed) as store:
        assert await store.task("new") is not None
        assert not await store.restoration.is_due()


async def test_who_owns_the_folder_cannot_come_between(
    store: Store, state_dir: Path, tmp_path: Path
) -> None:
    """What he puts in place of the work folder is neither written nor taken for the copy."""
    await store.adopt(["a"], source="track", label=None, now=1, deadline_at=2, ask_at=None)
    folder, victim = tmp_path / "shared", tmp_path / "victim"
    folder.mkdir()
    victim.mkdir()
    stop = threading.Event()

    def meddle() -> None:
        while not stop.is_set():
            for path in folder.glob(".backup-*"):
                with suppress(OSError):
                    path.rename(tmp_path / f"stolen-{path.name}")
                    path.symlink_to(victim)

    meddler = threading.Thread(target=meddle)
    meddler.start()
    try:
        for number in range(10):
            with suppress(OSError, BackupFailed):
                await asyncio.to_thread(back_up, state_dir, folder / f"copy-{number}")
    finally:
        stop.set()
        meddler.join()
    assert list(victim.iterdir()) == []
    for path in folder.glob("copy-*"):
        assert not path.is_symlink()
        with closing(sqlite3.connect(path)) as copy:
            assert copy.execute("PRAGMA application_id").fetchone() == (BACKUP_ID,)
