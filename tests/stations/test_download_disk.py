"""Our own disk in the way of a download: before it, during it, and when there is room again."""

import asyncio
import errno
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from daemon.disk import Disk
from daemon.download import Downloader
from daemon.gates import Gates
from daemon.rules.failure import Hindered, Reason
from daemon.rules.filename import name_partial
from daemon.rules.task import Task
from daemon.simulator.faults import Faults, FileFault
from daemon.simulator.films import Film
from daemon.simulator.simulator import Simulator
from daemon.store import Store
from tests.stations.quota import file_limit

Make = Callable[..., Downloader]
Want = Callable[..., Awaitable[Task]]
MIB = 1 << 20


def add(simulator: Simulator, size_bytes: int = 3_000_000, **fault: object) -> str:
    """Put a film at the host; return its link."""
    files = (FileFault(lasts="always", **fault),) if fault else ()  # type: ignore[arg-type]
    film = Film("disk", size_bytes)
    return simulator.tasks[
        simulator.add_task(Faults(callbacks=(), files=files), film=film)
    ].video_url


async def get(store: Store) -> Task:
    """Read the task."""
    task = await store.task("a")
    assert task is not None
    return task


async def test_without_room_nothing_is_written(
    simulator: Simulator, make_downloader: Make, want: Want, disk: Disk
) -> None:
    """The length counts, and `disk.min_free` on top; the message says what is lacking."""
    free = await disk.free_bytes()
    with pytest.raises(Hindered, match=r"are lacking in .*disk\.min_free") as caught:
        await make_downloader(min_free=free + MIB).fetch(await want(add(simulator)))
    assert caught.value.reason is Reason.DISK
    assert disk.partial(name_partial("a")).stat().st_size == 0


async def test_a_file_of_unknown_length_needs_room_too(
    simulator: Simulator, make_downloader: Make, want: Want, disk: Disk
) -> None:
    """64 MiB are assumed; without a length, the file host's word costs nothing."""
    free = await disk.free_bytes()
    link = add(simulator, framing="chunked")
    with pytest.raises(Hindered):
        await make_downloader(min_free=free - 32 * MIB).fetch(await want(link))


async def test_a_write_that_does_not_fit_keeps_the_rest(
    simulator: Simulator, make_downloader: Make, want: Want, store: Store
) -> None:
    """The bytes that fitted are recorded, and with room again it goes on behind them."""
    task = await want(add(simulator, bytes_per_second=10_000_000))
    with file_limit(2 * MIB), pytest.raises(Hindered, match="File too large"):
        await make_downloader().fetch(task)
    hindered = await get(store)
    held = int(hindered.spans.removeprefix("0-"))
    assert 0 < held <= 2 * MIB
    downloader = make_downloader()
    stored = await downloader.publish(await downloader.fetch(hindered))
    assert stored.sha256 == Film("disk", 3_000_000).sha256()
    assert simulator.requests[-1].range == f"bytes={held - 65_536}-"


async def test_the_gate_opens_when_bytes_were_synced_and_not_before(
    simulator: Simulator, make_downloader: Make, want: Want, gates: Gates, announced: list[str]
) -> None:
    """Room alone proves nothing about a disk that refused to write."""
    task = await want(add(simulator))
    gates.close("disk", "File too large")
    with file_limit(1000), pytest.raises(Hindered):
        await make_downloader().fetch(task)
    assert announced == ["gate.closed disk"]
    await make_downloader().fetch(task)
    assert announced == ["gate.closed disk", "gate.opened disk"]


def call(*command: str | Path) -> bool:
    """Call a program of the system; return whether it succeeded."""
    return subprocess.run(command, check=False, capture_output=True).returncode == 0  # noqa: S603 - our own program


@pytest.fixture
async def small_disk(tmp_path: Path) -> AsyncIterator[Disk]:
    """A download folder on a file system of 100 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    if not call("mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", place):
        pytest.skip("needs root and the right to mount, for a disk that is really full")
    disk = Disk(place / "videos", workers=2, file_mode=0o640, directory_mode=0o750)
    try:
        await disk.prepare()
        yield disk
    finally:
        disk.close()
        disk.pool.shutdown()
        assert call("umount", place)


def fill(disk: Disk, size_bytes: int) -> Path:
    """Let somebody else's file take room."""
    path = disk.directory.parent / "somebody's"
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size_bytes)
    return path


async def test_a_full_disk_hinders_and_room_continues(
    simulator: Simulator, make_downloader: Make, want: Want, store: Store, small_disk: Disk
) -> None:
    """ENOSPC in the middle: nothing is lost, nothing is finished, and it goes on by itself."""
    downloader = make_downloader(min_free=-1000 * MIB, folder=small_disk)
    taken = fill(small_disk, 80 * MIB)
    with pytest.raises(Hindered, match="No space left"):
        await downloader.fetch(await want(add(simulator, 30 * MIB)))
    hindered = await get(store)
    held = int(hindered.spans.removeprefix("0-"))
    assert 10 * MIB < held <= 20 * MIB
    taken.unlink()
    stored = await downloader.publish(await downloader.fetch(hindered))
    assert stored.sha256 == Film("disk", 30 * MIB).sha256()
    assert simulator.requests[-1].range == f"bytes={held - 65_536}-"


async def test_somebody_elses_file_is_noticed_under_way(
    simulator: Simulator, make_downloader: Make, want: Want, store: Store, small_disk: Disk
) -> None:
    """The free space is looked at again every 64 MiB, before the disk is really full."""
    link = add(simulator, 90 * MIB, bytes_per_second=100 * MIB)
    fetching = asyncio.create_task(make_downloader(folder=small_disk).fetch(await want(link)))
    part = small_disk.partial(name_partial("a"))
    while not part.exists() or part.stat().st_size < 10 * MIB:  # noqa: ASYNC110 - neither a file nor a ledger has an event
        await asyncio.sleep(0.01)
    fill(small_disk, 30 * MIB)
    with pytest.raises(Hindered, match=r"are lacking"):
        await fetching
    assert 64 * MIB <= int((await get(store)).spans.removeprefix("0-")) < 68 * MIB


async def test_a_disk_that_became_read_only_hinders(
    simulator: Simulator, make_downloader: Make, want: Want, small_disk: Disk
) -> None:
    """EROFS closes the gate like a full disk; a daemon that crashed would take no callbacks."""
    task = await want(add(simulator))
    place = small_disk.directory.parent
    assert call("mount", "-o", "remount,ro", place)
    with pytest.raises(Hindered, match=os.strerror(errno.EROFS)):
        await make_downloader(folder=small_disk).fetch(task)
    assert call("mount", "-o", "remount,rw", place)
    fetched = await make_downloader(folder=small_disk).fetch(task)
    assert fetched.state == "verified"
