"""The lock of the state folder, and what it says of the ledger: open, or closed.

Rule: one daemon has the folder, and the lock goes with its process. While a ledger is open there is
always a write-ahead log, so one that is missing then was taken away, with commits in it.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from daemon.ballast import Ballast

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class StoreRefused(Exception):
    """The database cannot be used; the text says why and what to do."""


class InUse(StoreRefused):
    """Another daemon has the state folder."""


class Lock:
    """A state folder that is ours. Made by `take_lock`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        said = os.pread(descriptor, 100, 0).decode(errors="replace").split()
        self.was_open = said[:1] == ["open"]
        """Whether the last process left the ledger without closing it."""
        self.is_new = not said
        """Whether no ledger was ever opened under this lock, by a version that notes it."""
        self.same_boot = said[1:] == [_boot_id()]
        """Whether the machine has run on since the last process."""

    def mark(self, state: str, ballast: Ballast | None = None) -> None:
        """Note durably whether the ledger is `open` or `closed`.

        Always as long: most full disks let it be changed; the others do in the room of the ballast.

        Raises:
            OSError: it is not noted.
        """
        try:
            os.pwrite(self._descriptor, f"{state:6} {_boot_id()}\n".encode(), 0)
            os.fdatasync(self._descriptor)
        except OSError:
            if ballast is None or not ballast.release():
                raise
            self.mark(state)


@contextmanager
def take_lock(state_dir: Path) -> Iterator[Lock]:
    """Make the state folder where it is missing, and have it alone.

    Raises:
        InUse: another daemon has it.
        StoreRefused: it cannot be written.
    """
    path = state_dir / "lock"
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreRefused(f"the state folder cannot be written: {error}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUse(
                f"another daemon uses {path.parent}: stop it, or give this one its own state_dir"
            ) from None
        yield Lock(descriptor)
    finally:
        os.close(descriptor)


def _boot_id() -> str:
    return _BOOT_ID.read_text().strip()
