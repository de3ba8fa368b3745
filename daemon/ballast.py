"""Room on the ledger's disk that is given up when it is full, so that callbacks are still taken.

Rule: a full disk may refuse a video, never a callback. The file holds nothing; SQLite needs what it
occupies to go on committing, and even to be opened (a full file system refuses the shared memory of
the write-ahead log). It is filled again once there is plenty of room.
"""

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

WHOLE_BYTES: Final = 64 << 20
"""Tens of thousands of callbacks."""
SHARE: Final = 8
"""On a small disk, at most this part of what is free."""
LEAST_BYTES: Final = 1 << 20
LOOK_SECONDS: Final = 30.0

_log = structlog.get_logger()


class Ballast:
    """The file `ballast` in the state folder."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "ballast"
        self._was_released = False

    def release(self) -> bool:
        """Give the room up; return whether there was any."""
        try:
            self._path.unlink()
        except OSError:
            return False
        self._was_released = True
        told = f"the disk of {self._path.parent} is full: callbacks are taken on reserve, make room"
        _log.error("ballast.released", message=told)
        return True

    async def keep(self, look_seconds: float = LOOK_SECONDS) -> None:
        """Fill the file for ever, whenever it is missing and there is plenty of room."""
        while True:
            size_bytes = await asyncio.to_thread(self._fill)
            if size_bytes and self._was_released:
                _log.info("ballast.filled", bytes=size_bytes)
                self._was_released = False
            await asyncio.sleep(look_seconds)

    def _fill(self) -> int:
        """Occupy the room; return how much was occupied now."""
        if self._path.exists():
            return 0
        new = self._path.with_name("ballast.new")
        try:
            found = os.statvfs(self._path.parent)
            size_bytes = min(WHOLE_BYTES, found.f_bavail * found.f_frsize // SHARE)
            if size_bytes < LEAST_BYTES:
                return 0
            descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, size_bytes)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            new.rename(self._path)
        except OSError:
            # Full again meanwhile, or no room can be reserved here: there is none to give up.
            with suppress(OSError):
                new.unlink()
            return 0
        return size_bytes
