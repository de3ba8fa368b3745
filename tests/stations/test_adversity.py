"""What a hostile tester had found: each once broke a promise, and each is held by a test here."""

import shutil
import socket
import sqlite3  # noqa: TID251 - another program reads the ledger
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest

from daemon import restore
from daemon.backup import back_up
from daemon.disk import Disk
from daemon.download import Downloader
from daemon.gates import Gates
from daemon.inspection import inspect_at_rest
from daemon.restoration import BACKUP_ID
from daemon.restore import take_over
from daemon.rules.failure import Reason, Trouble
from daemon.rules.schedule import Pace
from daemon.rules.task import Task
from daemon.rules.verdict import Terms
from daemon.simulator.simulator import Simulator
from daemon.store import Store, StoreFailed, open_store
from daemon.systemd import Notifier
from daemon.wal import Index, find_damage

PACE = Pace(first_after_ms=180_000, interval_ms=30_000, limit_ms=21_600_000)
TERMS = Terms(pace=PACE, retry_first_ms=1, retry_limit_ms=2, has_key=True)


@pytest.fixture
async def backup(store: Store, tmp_path: Path) -> Path:
    """The state folder of a ledger that was just restored."""
    assert await store.writable()
    folder = tmp_path / "restored"
    folder.mkdir()
    back_up(tmp_path / "state", folder / "ledger.sqlite3")
    return folder


async def test_nothing_is_served_before_a_backup_is_a_ledger_on_the_disk(
    backup: Path, disk: Disk, now: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader holds the checkpoint up; what was acknowledged then went with the log."""
    monkeypatch.setattr(restore, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(restore, "TRIES", 2)
    async with open_store(backup) as store:
        await store.commits.connection.execute_fetchall("PRAGMA busy_timeout = 20")
        with closing(sqlite3.connect(backup / "ledger.sqlite3", isolation_level=None)) as reader:
            reader.execute("BEGIN").fetchall()
            reader.execute("SELECT count(*) FROM task").fetchall()
            with pytest.raises(StoreFailed, match="another program reads"):
                await take_over(store, disk, now(), TERMS)
        # The next start, and nobody reads: the mark is gone from the file itself.
        await store.commits.connection.execute_fetchall(f"PRAGMA application_id = {BACKUP_ID}")
        await take_over(store, disk, now(), TERMS)
        await store.adopt(["new"], source="track", label=None, now=1, deadline_at=2, ask_at=None)
        crashed = shutil.copytree(backup, backup.with_name("crashed"))
    async with open_store(crashed) as store:
        assert await store.task("new") is not None


def test_any_bytes_of_a_host_can_be_written_down() -> None:
    """Surrogates in a header ended the process at every start."""
    failure = Trouble(Reason.NETWORK, "text/html; name=\udcfcber\ud800")
    assert failure.message == "text/html; name=\\udcfcber\\ud800"
    failure.message.encode()


def test_an_index_that_is_older_than_its_log_proves_nothing(tmp_path: Path) -> None:
    """A snapshot of a running disk, put back without a restart of the machine, is healthy."""
    with closing(sqlite3.connect(tmp_path / "a", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        connection.execute("CREATE TABLE t (x)").fetchall()
        log = tmp_path / "a-wal"
        salts = log.read_bytes()[16:24]
        # The first salt goes up by one each time that the log begins anew.
        first = int.from_bytes(salts[:4]) - 3
        older, after = Index(99, (first % 2**32).to_bytes(4) + b"salt"), Index(2, salts)
        assert find_damage(log, older, after, same_boot=True) is None
        told = find_damage(log, Index(99, salts), after, same_boot=False)
    assert told == "it holds 2 of 99 frames that were committed"


async def test_a_place_that_nobody_may_see_holds_no_file_of_ours(
    disk: Disk, tmp_path: Path
) -> None:
    """A restored ledger names the folders of another machine."""
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("12")
    assert not await disk.has(str(tmp_path / "loop" / "a.mp4"), 2)
    assert not await disk.has(str(tmp_path / "file" / "a.mp4"), 2)
    assert not await disk.has(str(tmp_path / ("x" * 300)), 2)
    assert await disk.has(str(tmp_path / "file"), 2)


def test_whoever_looks_first_does_not_own_the_lock(tmp_path: Path) -> None:
    """A backup made by root, before the daemon ever ran, would keep it out."""
    inspect_at_rest(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_manager_that_does_not_listen_holds_nothing_up(tmp_path: Path) -> None:
    """The loop would stand still with it."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as deaf:
        deaf.bind(str(tmp_path / "notify"))
        notifier, began = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")}), time.monotonic()
        for _ in range(2_000):
            notifier.tell("WATCHDOG=1")
        assert time.monotonic() - began < 5


async def test_bytes_of_a_host_open_its_gate_before_the_film_is_whole(
    *,
    make_downloader: Callable[..., Downloader],
    simulator: Simulator,
    want: Callable[..., Awaitable[Task]],
    gates: Gates,
) -> None:
    """A slow host that is back would get one download at a time, for minutes."""
    task_id = simulator.add_task(finished=True)
    link = simulator.tasks[task_id].video_url
    gates.close("host:127.0.0.1", "down")
    gates.close("host:other.example.com", "down")
    downloader = make_downloader()
    await downloader.fetch(await want(link))
    assert [shut.name for shut in gates.shut()] == ["host:other.example.com"]
