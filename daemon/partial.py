"""The partial file of one video: its bytes, and what is known of them.

Rule: progress is recorded after the bytes were synced, never before, so a crash can only make us
fetch again what is already there. What the record says beyond the end of the file is forgotten.
"""

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import aiofiles

from daemon.disk import Disk, own_disk, sync_or_remove, undisturbed
from daemon.folder import open_own_file, open_own_folder
from daemon.rules.failure import Hindered
from daemon.rules.spans import Spans

if TYPE_CHECKING:
    from aiofiles.threadpool.binary import AsyncFileIO

SYNC_BYTES: Final = 32 << 20
"""How much may be written before it is synced: the last sync then has little left to do."""
SYNC_SECONDS: Final = 1.0

Record = Callable[[Spans, int | None, str | None], Awaitable[None]]
"""Commits (spans on disk, total size or None, validator or None)."""


class Partial:
    """An open partial file. Made by `open_partial`, which also closes it."""

    def __init__(self, disk: Disk, path: Path, file: "AsyncFileIO", record: Record) -> None:
        self.path = path
        self.spans = Spans.parse("")
        self.total_bytes: int | None = None
        self.validator: str | None = None
        self._disk = disk
        self._file = file
        self._record = record
        self._unsynced_bytes = 0
        self._synced_at = time.monotonic()

    @property
    def end(self) -> int:
        """The first byte that is missing."""
        gaps = self.spans.gaps(self.total_bytes if self.total_bytes is not None else 1 << 62)
        return gaps[0][0] if gaps else self.total_bytes or 0

    async def write(self, start: int, block: memoryview) -> None:
        """Write a block; sync and record from time to time."""
        with own_disk():
            await undisturbed(self._write(start, block))
        if self._unsynced_bytes >= SYNC_BYTES or time.monotonic() - self._synced_at >= SYNC_SECONDS:
            await self.sync()

    async def _write(self, start: int, block: memoryview) -> None:
        await self._file.seek(start)
        rest = block
        while rest:
            # A raw file may take less than it was given, and says ENOSPC only at the next try.
            rest = rest[await self._file.write(rest) :]
        self.spans = self.spans.add(start, start + len(block))
        self._unsynced_bytes += len(block)

    async def read(self, start: int, count: int) -> bytes:
        """Read back what is on disk."""
        with own_disk():
            return await undisturbed(self._read(start, count))

    async def _read(self, start: int, count: int) -> bytes:
        await self._file.seek(start)
        found = bytearray()
        while len(found) < count:
            piece = await self._file.read(count - len(found))
            if not piece:
                break
            found += piece
        return bytes(found)

    async def sync(self) -> None:
        """Bring everything written to the disk, then record it."""
        if self._unsynced_bytes == 0:
            return
        try:
            await self._disk.run(sync_or_remove, os.fdatasync, self._file.fileno(), self.path)
        except Hindered:
            # The file is gone; a second try would "succeed" and record it.
            self._unsynced_bytes = 0
            raise
        await self._record(self.spans, self.total_bytes, self.validator)
        self._unsynced_bytes = 0
        self._synced_at = time.monotonic()

    async def reset(self) -> None:
        """Forget all bytes: another version is going to be written."""
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

    On the way out, also after a failure or a cancellation, what was written is synced and recorded.
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
        finally:
            await undisturbed(partial.sync())


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
