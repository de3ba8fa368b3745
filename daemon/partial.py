"""The partial file of one video: its bytes, and what is known of them.

Rule: progress is recorded after the bytes were synced, never before, so a crash can only make us
fetch again what is already there. What the record says beyond the end of the file is forgotten.
Syncing and hashing go on beside the writing: neither lets the network wait.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiofiles

from daemon.digest import Digest
from daemon.disk import Disk, own_disk, sync_or_remove, undisturbed, wait_for_all
from daemon.folder import open_own_file, open_own_folder
from daemon.rules.failure import Hindered
from daemon.rules.spans import Spans

if TYPE_CHECKING:
    from aiofiles.threadpool.binary import AsyncFileIO

SYNC_BYTES: Final = 32 << 20
"""How much may be written before it is synced: the last sync then has little left to do."""
SYNC_SECONDS: Final = 1.0
SMALL_BYTES: Final = 8 << 20
"""What may be fetched again after a crash at the end: the usual film has 5 MB."""
DIGEST_BYTES: Final = 4 << 20
"""How far hashing stays behind before it goes on; a shorter file has nothing to gain."""

Record = Callable[[Spans, int | None, str | None], Awaitable[None]]
"""Commits (spans on disk, total size or None, validator or None)."""


class Partial:
    """An open partial file. Made by `open_partial`, which also closes it."""

    def __init__(self, disk: Disk, path: Path, file: "AsyncFileIO", record: Record) -> None:
        self.path = path
        self.spans = Spans.parse("")
        self.total_bytes: int | None = None
        self.validator: str | None = None
        self.digest = Digest()
        self._disk = disk
        self._file = file
        self._record = record
        self._offset = 0
        self._one_at_a_time = asyncio.Lock()
        self._written_bytes = 0
        self._unsynced_bytes = 0
        self._synced_at = time.monotonic()
        self._syncing: asyncio.Task[None] | None = None
        self._digesting: asyncio.Task[None] | None = None

    @property
    def end(self) -> int:
        """The first byte that is missing."""
        gaps = self.spans.gaps(self.total_bytes if self.total_bytes is not None else 1 << 62)
        return gaps[0][0] if gaps else self.total_bytes or 0

    async def write(self, start: int, block: memoryview) -> None:
        """Write a block of bytes that are missing; sync and record from time to time.

        Raises:
            Hindered: this block, or one before it, could not be brought to the disk.
        """
        async with self._one_at_a_time:
            with own_disk():
                await undisturbed(self._write(start, block))
        if self._unsynced_bytes >= SYNC_BYTES or time.monotonic() - self._synced_at >= SYNC_SECONDS:
            self._syncing = _begin_again(self._syncing, self._sync)
        if self._digest_end() >= self.digest.end + DIGEST_BYTES:
            self._digesting = _begin_again(self._digesting, self._follow)

    def _digest_end(self) -> int:
        """Return how far to hash by now: of what was there before, as much again as came since.

        Who leaves waits for it, and a host that breaks off soon would cost a reading of everything.
        """
        return min(self.end, DIGEST_BYTES + 2 * self._written_bytes)

    async def _write(self, start: int, block: memoryview) -> None:
        await self._go_to(start)
        rest = block
        while rest:
            # A raw file may take less than it was given, and says ENOSPC only at the next try.
            count = await self._file.write(rest)
            self._offset += count
            rest = rest[count:]
        self.spans = self.spans.add(start, start + len(block))
        self._written_bytes += len(block)
        self._unsynced_bytes += len(block)

    async def _go_to(self, start: int) -> None:
        if self._offset != start:
            self._offset = await self._file.seek(start)

    async def read(self, start: int, count: int) -> bytes:
        """Read back what is on disk."""
        async with self._one_at_a_time:
            with own_disk():
                return await undisturbed(self._read(start, count))

    async def _read(self, start: int, count: int) -> bytes:
        await self._go_to(start)
        found = bytearray()
        while len(found) < count:
            piece = await self._file.read(count - len(found))
            self._offset += len(piece)
            if not piece:
                break
            found += piece
        return bytes(found)

    async def _follow(self) -> None:
        await self._disk.run(self.digest.advance, self._file.fileno(), self._digest_end())

    async def sync(self) -> None:
        """Bring everything written to the disk, then record it.

        Raises:
            Hindered: that failed, now or beside the writing; the file is gone.
        """
        await self._join()
        await undisturbed(self._sync())

    async def finish(self) -> None:
        """Sync and record what is not examined at once: that syncs too, and records more.

        For the usual film one commit less is a fifth of all; a large one is not fetched again.

        Raises:
            Hindered: a disk call failed.
        """
        whole = self.total_bytes is not None and self.spans.covers(self.total_bytes)
        if whole and self._unsynced_bytes <= SMALL_BYTES:
            await self._join()
        else:
            await self.sync()

    async def _join(self) -> None:
        """Wait for what goes on beside the writing."""
        beside = [task for task in (self._syncing, self._digesting) if task is not None]
        self._syncing = self._digesting = None
        for failure in await undisturbed(wait_for_all(beside)):
            raise failure

    async def _sync(self) -> None:
        unsynced_bytes, spans = self._unsynced_bytes, self.spans
        if unsynced_bytes == 0:
            return
        self._synced_at = time.monotonic()
        try:
            await self._disk.run(sync_or_remove, os.fdatasync, self._file.fileno(), self.path)
        except Hindered:
            # The file is gone; a second try would "succeed" and record it.
            self._unsynced_bytes = 0
            raise
        await self._record(spans, self.total_bytes, self.validator)
        self._unsynced_bytes -= unsynced_bytes

    async def reset(self) -> None:
        """Forget all bytes: another version is going to be written."""
        await self._join()
        self.digest = Digest()
        await self._disk.run(os.ftruncate, self._file.fileno(), 0)
        self.spans, self.total_bytes, self.validator = Spans.parse(""), None, None
        self._unsynced_bytes = 0
        await self._record(self.spans, None, None)


@asynccontextmanager
async def open_partial(
    disk: Disk,
    path: Path,
    record: Record,
    *,
    spans: str,
    total_bytes: int | None,
    validator: str | None,
) -> AsyncIterator[Partial]:
    """Open, or make, a partial file and trust of its record what the file can hold.

    On the way out, also after a failure or a cancellation, what was written is synced and recorded;
    but the end of a whole file is left to its examination.
    """
    async with AsyncExitStack() as stack:
        with own_disk():
            file = await undisturbed(_open(disk, path, stack))
        partial = Partial(disk, path, file, record)
        on_disk = (await disk.run(os.fstat, file.fileno())).st_size
        partial.spans = Spans.parse(spans).cut(on_disk)
        known_end = partial.spans.ranges[-1][1] if partial.spans.ranges else 0
        if on_disk > known_end:
            # Nobody knows which version left it, and it would outlast a shorter one.
            await disk.run(os.ftruncate, file.fileno(), known_end)
        if known_end:
            partial.total_bytes, partial.validator = total_bytes, validator
        try:
            yield partial
        except BaseException:
            await undisturbed(partial.sync())
            raise
        await undisturbed(partial.finish())


def _begin_again(
    task: asyncio.Task[None] | None, work: Callable[[], Coroutine[Any, Any, None]]
) -> asyncio.Task[None]:
    """Begin the work when it is not going on; raise what went wrong with it before."""
    if task is not None and not task.done():
        return task
    if task is not None:
        task.result()
    return asyncio.create_task(work())


async def _open(disk: Disk, path: Path, stack: AsyncExitStack) -> "AsyncFileIO":
    """Open the file; `stack` closes it, also when nobody waits for it any more."""
    file = await aiofiles.open(path, "r+b", buffering=0, opener=_create, executor=disk.pool)
    stack.push_async_callback(_close, file)
    return file


async def _close(file: "AsyncFileIO") -> None:
    await undisturbed(file.close())


def _create(path: str, _: int) -> int:
    with open_own_folder(Path(path).parent) as folder:
        return open_own_file(folder, Path(path).name)
