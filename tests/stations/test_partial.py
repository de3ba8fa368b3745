"""The partial file: what is recorded was synced, what is not recorded is not believed."""

# ruff: noqa: ASYNC240 - a test may wait for its own disk

import asyncio
import errno
import hashlib
import os
import stat
import threading
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from daemon import partial
from daemon.disk import Disk
from daemon.partial import Partial, open_partial
from daemon.rules.failure import Hindered
from daemon.rules.spans import Spans
from tests.stations.quota import file_limit

Record = tuple[str, int | None, str | None]


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[Disk]:
    """A download folder with one thread."""
    made = Disk(tmp_path, workers=1, file_mode=0o600, directory_mode=0o700)
    await made.prepare()
    yield made
    made.close()


@pytest.fixture
def path(disk: Disk) -> Path:
    """Where the partial file lies."""
    return disk.partial("a.part")


@pytest.fixture
def records() -> list[Record]:
    """What was recorded, in order."""
    return []


class Begin:
    """Opens the partial file with a record of what it holds."""

    def __init__(self, disk: Disk, path: Path, records: list[Record]) -> None:
        self._disk, self._path, self._records = disk, path, records

    def __call__(
        self, spans: str = "", total: int | None = None, validator: str | None = None
    ) -> AbstractAsyncContextManager[Partial]:
        """Begin."""

        async def record(spans: Spans, total: int | None, validator: str | None) -> None:
            self._records.append((str(spans), total, validator))

        return open_partial(
            self._disk, self._path, record, spans=spans, total_bytes=total, validator=validator
        )


@pytest.fixture
def begin(disk: Disk, path: Path, records: list[Record]) -> Begin:
    """Open the partial file."""
    return Begin(disk, path, records)


def open_files() -> set[str]:
    """Return the descriptors of this process."""
    return {path.name for path in Path("/proc/self/fd").iterdir()}


async def test_what_was_written_is_recorded_at_the_end(
    begin: Begin, path: Path, records: list[Record]
) -> None:
    """Bytes, total and validator together, once; and nobody else may read them yet."""
    async with begin() as part:
        assert (part.end, part.total_bytes, part.validator) == (0, None, None)
        part.total_bytes, part.validator = 10, '"v"'
        await part.write(0, memoryview(b"hello"))
        await part.write(5, memoryview(b"wor"))
        assert part.end == 8
        assert await part.read(3, 4) == b"lowo"
        assert await part.read(6, 99) == b"or"
        assert records == []
    assert records == [("0-8", 10, '"v"')]
    assert path.read_bytes() == b"hellowor"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_nothing_written_is_nothing_recorded(begin: Begin, records: list[Record]) -> None:
    """A look at the file does not touch the ledger."""
    async with begin() as part:
        await part.sync()
    assert records == []


async def test_the_record_keeps_up_with_long_downloads(
    begin: Begin, records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash costs a second's bytes, or 32 MiB, whichever is less; the writing does not wait."""
    monkeypatch.setattr(partial, "SYNC_BYTES", 8)

    async def recorded(*spans: str) -> None:
        async with asyncio.timeout(5):
            while [spans for spans, _, _ in records] != list(spans):  # noqa: ASYNC110 - a list
                await asyncio.sleep(0.001)

    async with begin() as part:
        for start in range(0, 8, 4):
            await part.write(start, memoryview(b"abcd"))
        await recorded("0-8")
        for start in range(8, 16, 4):
            await part.write(start, memoryview(b"abcd"))
        await recorded("0-8", "0-16")
        await part.write(16, memoryview(b"abcd"))
        monkeypatch.setattr(partial, "SYNC_SECONDS", 0.05)
        await asyncio.sleep(0.06)
        await part.write(20, memoryview(b"e"))
        await recorded("0-8", "0-16", "0-21")


async def test_bytes_that_come_while_others_are_synced_wait_for_the_next_record(
    tmp_path: Path, path: Path, records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what stood in the file when the sync began is known to be on the disk."""
    monkeypatch.setattr(partial, "SYNC_BYTES", 4)
    hold = threading.Event()
    monkeypatch.setattr(os, "fdatasync", lambda _: hold.wait())
    wide = Disk(tmp_path, workers=2, file_mode=0o600, directory_mode=0o700)
    async with Begin(wide, path, records)() as part:
        await part.write(0, memoryview(b"abcd"))
        await part.write(4, memoryview(b"efgh"))
        assert records == []
        hold.set()
        await part.sync()
    wide.close()
    assert [spans for spans, _, _ in records] == ["0-4", "0-8"]
    assert path.read_bytes() == b"abcdefgh"


@pytest.mark.parametrize("beside", ["sync", "digest"])
async def test_what_fails_beside_the_writing_is_felt_by_the_next_write(
    begin: Begin, records: list[Record], monkeypatch: pytest.MonkeyPatch, beside: str
) -> None:
    """A disk that cannot be synced, or not be read back, is noticed before the end."""
    monkeypatch.setattr(partial, "SYNC_BYTES", 4)
    monkeypatch.setattr(partial, "DIGEST_BYTES", 4)

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    async def write_on() -> None:
        async with begin() as part:
            if beside == "sync":
                monkeypatch.setattr(os, "fdatasync", fail)
            else:
                monkeypatch.setattr(part.digest, "advance", fail)
            for start in range(0, 400, 4):
                await part.write(start, memoryview(b"abcd"))
                await asyncio.sleep(0.002)
            pytest.fail("nobody noticed")

    with pytest.raises(Hindered, match="broken"):
        await write_on()
    assert records == [] or beside == "digest"


async def test_the_digest_follows_the_first_bytes_and_begins_anew_with_a_new_version(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It never reads a byte that may still change: behind a gap nothing is hashed."""
    monkeypatch.setattr(partial, "DIGEST_BYTES", 4)
    async with begin() as part:
        await part.write(100, memoryview(b"behind"))
        await part.write(0, memoryview(b"abcd"))
        await part.write(4, memoryview(b"ef"))
        await part.sync()
        assert part.digest.end in {4, 6}
        assert part.digest.hexdigest() == hashlib.sha256(b"abcdef"[: part.digest.end]).hexdigest()
        await part.reset()
        assert part.digest.end == 0
        await part.write(0, memoryview(b"ABCD"))
        await part.sync()
        assert part.digest.hexdigest() == hashlib.sha256(b"ABCD").hexdigest()


@pytest.mark.parametrize(
    ("on_disk", "recorded", "believed", "known"),
    [
        (b"abcdef", "0-4", "0-4", True),
        (b"ab", "0-4", "0-2", True),
        (b"", "0-4", "", False),
        (b"abcdef", "", "", False),
        (None, "0-4", "", False),
        (b"abcdefgh", "0-2,4-6", "0-2,4-6", True),
    ],
)
async def test_only_what_record_and_disk_agree_on_is_believed(
    begin: Begin, path: Path, on_disk: bytes | None, recorded: str, believed: str, *, known: bool
) -> None:
    """Bytes behind the record are cut off: they may be of another version, and outlast a shorter.

    Without any byte that is believed, total and validator mean nothing either.
    """
    if on_disk is not None:
        path.write_bytes(on_disk)
    async with begin(recorded, 10, '"v"') as part:
        assert str(part.spans) == believed
        assert (part.total_bytes, part.validator) == ((10, '"v"') if known else (None, None))
    end = part.spans.ranges[-1][1] if part.spans.ranges else 0
    assert path.read_bytes() == (on_disk or b"")[:end]


async def test_a_new_version_begins_with_nothing(
    begin: Begin, path: Path, records: list[Record]
) -> None:
    """That there is nothing left is committed before the first new byte."""
    path.write_bytes(b"old bytes")
    async with begin("0-9", 10, '"old"') as part:
        await part.write(9, memoryview(b"!"))
        await part.reset()
        assert (part.end, part.total_bytes, part.validator) == (0, None, None)
        assert records == [("", None, None)]
        assert path.read_bytes() == b""
        await part.write(0, memoryview(b"new"))
    assert records[1:] == [("0-3", None, None)]
    assert path.read_bytes() == b"new"


async def test_an_empty_file_of_known_length_is_whole(begin: Begin) -> None:
    """The first missing byte of nothing is byte 0."""
    async with begin() as part:
        part.total_bytes = 0
        assert part.end == 0
        part.total_bytes = 3
        await part.write(0, memoryview(b"abc"))
        assert part.end == 3


@pytest.mark.parametrize("kind", ["symlink", "dangling", "hard link", "fifo"])
async def test_what_is_no_file_of_ours_is_replaced(
    begin: Begin, path: Path, tmp_path: Path, kind: str
) -> None:
    """Not one byte goes through a link that somebody put at our name."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious bytes")
    if kind == "symlink":
        path.symlink_to(victim)
    elif kind == "dangling":
        path.symlink_to(tmp_path / "made through the link")
    elif kind == "hard link":
        os.link(victim, path)
    else:
        os.mkfifo(path)
    async with begin("0-9", 9, '"v"') as part:
        assert part.end == 0
        await part.write(0, memoryview(b"film"))
    assert victim.read_bytes() == b"precious bytes"
    assert not (tmp_path / "made through the link").exists()
    assert path.read_bytes() == b"film"
    assert stat.S_ISREG(path.lstat().st_mode)


async def test_a_folder_in_the_way_hinders_and_does_not_crash(begin: Begin, path: Path) -> None:
    """Who put it there has to take it away; the message names it."""
    path.mkdir()
    with pytest.raises(Hindered, match=r"a\.part"):
        async with begin():
            pytest.fail("a folder was opened")


async def test_a_full_disk_keeps_what_fitted(
    begin: Begin, path: Path, records: list[Record]
) -> None:
    """The block that did not fit is not recorded, also when half of it was written."""

    async def write_too_much() -> None:
        async with begin() as part:
            await part.write(0, memoryview(b"x" * 4096))
            with file_limit(6000):
                await part.write(4096, memoryview(b"y" * 4096))

    with pytest.raises(Hindered, match="too large"):
        await write_too_much()
    assert records == [("0-4096", None, None)]
    assert path.stat().st_size == 6000
    async with begin("0-4096") as part:
        assert path.stat().st_size == 4096
        await part.write(4096, memoryview(b"z"))
    assert path.read_bytes() == b"x" * 4096 + b"z"


@pytest.mark.parametrize("moment", ["write", "sync", "reset"])
async def test_a_cancelled_call_leaves_no_file_open_and_no_false_record(
    disk: Disk, begin: Begin, path: Path, records: list[Record], moment: str
) -> None:
    """What is recorded is on the disk, whenever the download is cancelled; and all is closed."""
    path.write_bytes(b"0123456789")
    hold, reached = threading.Event(), asyncio.Event()

    async def download() -> None:
        async with begin("0-10", 20, '"v"') as part:
            await part.write(10, memoryview(b"ab"))
            steps = {
                "write": lambda: part.write(12, memoryview(b"cd")),
                "sync": part.sync,
                "reset": part.reset,
            }
            disk.pool.submit(hold.wait)
            reached.set()
            await steps[moment]()

    before = open_files()
    task = asyncio.create_task(download())
    await reached.wait()
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.sleep(0.01)
    assert not task.done()
    hold.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert open_files() == before
    expected = {"write": b"0123456789abcd", "sync": b"0123456789ab"}
    assert path.read_bytes() == expected.get(moment, b"")
    for spans, _, _ in records:
        if moment != "reset":
            assert spans == f"0-{path.stat().st_size}"
    async with begin(*(records[-1] if records else ("0-10", 20, '"v"'))) as part:
        assert part.end == path.stat().st_size


async def one_call_waits(disk: Disk) -> None:
    """Wait until the one thread is busy and one call stands behind it."""
    await asyncio.sleep(0.01)
    async with asyncio.timeout(5):
        while disk.pool._work_queue.qsize() != 1:  # noqa: ASYNC110 - a pool has no event
            await asyncio.sleep(0.01)


async def test_a_file_that_is_opened_for_nobody_is_closed(disk: Disk, begin: Begin) -> None:
    """Cancelled while a slow disk opens it: the descriptor that comes late is not forgotten."""
    before = open_files()
    looking, opening = threading.Event(), threading.Event()
    disk.pool.submit(looking.wait)
    task = asyncio.create_task(begin().__aenter__())
    await one_call_waits(disk)
    disk.pool.submit(opening.wait)
    looking.set()
    await one_call_waits(disk)
    task.cancel()
    opening.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert open_files() == before


async def test_a_file_whose_sync_fails_is_not_recorded(
    begin: Begin, path: Path, records: list[Record]
) -> None:
    """A descriptor that cannot be synced stands for a dying disk: nothing of it is believed."""

    async def write_and_break() -> None:
        async with begin() as part:
            await part.write(0, memoryview(b"film"))
            # A descriptor of a pipe, under the file's number, refuses fdatasync with EINVAL.
            reader, writer = os.pipe()
            os.dup2(writer, part._file.fileno())
            os.close(reader)
            os.close(writer)
            await part.sync()

    with pytest.raises(Hindered):
        await write_and_break()
    assert records == []
    assert not path.exists()
