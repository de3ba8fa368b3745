"""Copies the ledger while the daemon runs, and proves the copy.

Rule: what stands under the name that was asked for is a whole, verified ledger, or nothing is. The
copy is marked, so that the daemon which takes it over asks about everything again. It is made by
the command and not by the daemon, which may write to its own folders only; the connection is
read-only, for a second writer could damage the ledger.
"""

import errno
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from daemon.folder import open_own_folder, sync_directory
from daemon.inspection import LEDGER_NAME, decode, find_bad_row, inspect_at_rest, read_only
from daemon.restoration import BACKUP_ID

NOTE_NAME: Final = "last-backup"
"""An empty file in the state folder: its time is that of the newest copy."""


class BackupFailed(Exception):
    """There is no backup; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Copied:
    """A backup that was made."""

    path: str
    tasks: int
    size_bytes: int


def back_up(state_dir: Path, target: Path) -> Copied:
    """Copy the ledger in `state_dir` to the new file `target`, check the copy and make it durable.

    Raises:
        FileExistsError: `target` is there already.
        OSError: a disk failed.
        BackupFailed: there is no ledger, or it is damaged.
        StoreRefused: the ledger is not in use, and what was left of it is damaged.
    """
    source = state_dir / LEDGER_NAME
    if not source.exists():
        raise BackupFailed(f"there is no ledger in {state_dir}: is it the right configuration?")
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, "is there already", str(target))
    inspect_at_rest(state_dir)
    try:
        with _workroom(target.parent) as room:
            # SQLite turns this into a path again, so what it wrote is compared with what is here.
            part = Path(f"/proc/self/fd/{room}/ledger")
            os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            tasks, copied_bytes = _copy(source, part)
            with part.open("rb") as file:
                os.fsync(file.fileno())
                size_bytes = os.fstat(file.fileno()).st_size
            if size_bytes != copied_bytes:
                raise BackupFailed(f"somebody moves folders in {target.parent}: choose another one")
            os.link("ledger", target, src_dir_fd=room)
        sync_directory(target.parent)
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target)) from error
        raise BackupFailed(f"{source} cannot be copied: {error}") from error
    # The copy is what was asked for; the note is for alarms.
    with suppress(OSError):
        _note(state_dir)
    return Copied(str(target), tasks, size_bytes)


def _note(state_dir: Path) -> None:
    """Remember when it was; of the folder's owner, whoever made the copy, so that he can again."""
    # Root writes into a folder of somebody else: no link is followed, no pipe is waited for.
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    note = os.open(state_dir / NOTE_NAME, flags, 0o600)
    try:
        if os.geteuid() == 0:
            owner = state_dir.stat()
            os.fchown(note, owner.st_uid, owner.st_gid)
        os.utime(note)
    finally:
        os.close(note)


@contextmanager
def _workroom(folder: Path) -> Iterator[int]:
    """Make a folder that only we can enter beside the target, hold it open, and clear it away."""
    path = Path(tempfile.mkdtemp(prefix=".backup-", dir=folder))
    try:
        with open_own_folder(path) as room:
            try:
                yield room
            finally:
                for name in os.listdir(room):  # noqa: PTH208 - by its descriptor
                    os.unlink(name, dir_fd=room)
    finally:
        with suppress(OSError):
            path.rmdir()


def _copy(source: Path, part: Path) -> tuple[int, int]:
    """Copy, mark and check; return how many tasks there are, and how many bytes."""
    with (
        closing(read_only(source)) as ledger,
        closing(sqlite3.connect(part, isolation_level=None)) as copy,
    ):
        copy.text_factory = decode
        ledger.backup(copy)
        # One file without a log beside it, that cannot be torn from it.
        copy.execute("PRAGMA journal_mode = DELETE").fetchall()
        copy.execute(f"PRAGMA application_id = {BACKUP_ID}")
        found = find_bad_row(copy)
        if found is not None:
            raise BackupFailed(
                f"{source} is damaged: {found}. Keep the older backups, and restore the newest one"
            )
        ((tasks,),) = copy.execute("SELECT count(*) FROM task").fetchall()
        ((size_bytes,),) = copy.execute(
            "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
        ).fetchall()
    return int(tasks), int(size_bytes)
